"""A run as people look at it, live or finished: from the lines of its events to what a screen shows.

    preview.py              the lines of a long `events.jsonl` at a glance
    series.py               histories of bounded length
    run_state.py, model.py  where a run stands; what its events add up to
    pace.py                 how long the rest will take
    view.py                 what a screen shows of a run, frozen
    feed.py                 a run directory as one view after the other, in small bites
    comparison.py           other runs beside it; the settings in which they differ
    pictures.py             single images of the buffer
    snapshot.py             a view as a page of text, or as one document

Nothing here imports Textual or torch: plain progress lines, `ssdkd watch --once` and the dashboard are made of it.
"""
