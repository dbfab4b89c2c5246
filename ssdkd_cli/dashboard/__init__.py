"""The live dashboard.

    preview.py              the lines of a long `events.jsonl` at a glance
    series.py               histories of bounded length
    run_state.py, model.py  where a run stands; what its events add up to
    pace.py                 how long the rest will take
    view.py                 what a screen shows of a run, frozen
    feed.py                 a run directory as one view after the other, in small bites
    comparison.py           other runs beside it; the settings in which they differ
    pictures.py             single images of the buffer
    snapshot.py             a view as a page of text, or as one document

None of these imports Textual or torch. The app around them (app.py, views.py, screens/, widgets/) does the drawing;
curves.py, axes.py, plot.py, canvas.py and glyphs.py turn numbers into rows of characters for it.
"""
