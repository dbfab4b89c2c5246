"""A run directory as one view after the other.

Whoever shows a run makes a `RunFeed` and calls `poll()` now and then, from one thread, a worker's for example:

    feed = RunFeed(resolve_run(text))
    while True:
        view = feed.poll()          # a frozen RunView; takes 50 ms or little more, whatever the file
        show(view)
        sleep(0.25 if view.loaded == 1.0 else 0)

It never waits for the run and never raises for what is wrong with its files: the view says it in words.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from ssdkd_cli.watching import preview
from ssdkd_cli.watching.model import RunModel
from ssdkd_cli.watching.view import SILENCE_S, Progress, RunView
from ssdkd_cli.words import duration, views_text
from stages.events import SCHEMA_VERSION
from stages.paths import is_folder, is_there
from stages.run_directory import FINAL_STATUSES, LIVE_STATUSES, RunDirectory
from stages.run_directory.line_tail import Bite, Tail

_CHUNK_BYTES = 1 << 18
_CLOCK_TOLERANCE_S = 60.0
_SHORT_FILE_S = 1.0  # for so long, a file too short for a glance is read before anything is shown


class RunFeed:
    """Reads a run's events as they come and says what they add up to."""

    def __init__(
        self,
        run: RunDirectory,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.run = run
        self._clock = clock
        self._monotonic = monotonic
        self._notice = ""
        self._begin()

    def _begin(self) -> None:
        """Start from the file's first line."""
        self._model = RunModel(self.run.path)
        self._tail = Tail(self.run.events_file)
        self._num_unreadable = 0
        # While a long file is being read: what a glance at it and its newest lines say.
        self._glance: RunModel | None = None
        self._glance_tail: Tail | None = None
        self._is_loaded = False
        self._news_at_s: float | None = None  # on the monotonic clock
        self._ahead_s = 0.0
        self._error = ""

    # -- reading ---------------------------------------------------------------------------------------------

    def poll(self, budget_s: float = 0.05) -> RunView:
        """Read what is new, for about `budget_s` seconds, and say where the run stands."""
        is_alive = self.run.is_alive()  # asked first: of a run that is over by now, all events are there to read
        deadline_s = self._monotonic() + budget_s
        if not self._is_loaded and self._tail.offset == 0 and not self._take_a_glance():
            deadline_s += _SHORT_FILE_S
        if self._glance is not None and self._glance_tail is not None:
            self._read(self._glance_tail, self._glance)
        while True:
            bite = self._read(self._tail, self._model)
            if bite.is_at_end:
                self._is_loaded = True
                self._glance = self._glance_tail = None
            if bite.is_at_end or self._monotonic() >= deadline_s:
                return self._view(is_alive=is_alive)

    def _take_a_glance(self) -> bool:
        """Of a long file take in some lines now; False where it is short enough to be read whole at once."""
        path = self.run.events_file
        try:
            size = path.stat().st_size
            if size < preview.MIN_BYTES:
                return False
            glance = preview.preview(path, size)
        except OSError:
            return False  # reading on meets the same error, and reports it
        self._glance = RunModel(self.run.path)
        self._glance_tail = Tail(path, offset=glance.offset)
        self._feed(self._glance, glance.lines)
        return True

    def _read(self, tail: Tail, model: RunModel) -> Bite:
        bite = tail.poll(_CHUNK_BYTES)
        if bite.is_replaced:
            self._begin()
            self._notice = f"{self.run.events_file} was replaced by another file: it was read anew"
            return self._read(self._tail, self._model)
        if bite.error:
            self._error = self._what_vanished() if model.num_events else ""
            if is_there(self.run.events_file):
                self._error = bite.error
        else:
            self._error = ""
        self._feed(model, bite.lines)
        return bite

    def _what_vanished(self) -> str:
        if is_folder(self.run.path):
            return f"{self.run.events_file} has vanished; what was read of it stays shown"
        return f"the directory {self.run.path} has vanished; what was read of it stays shown"

    def _feed(self, model: RunModel, lines: Iterable[bytes]) -> None:
        is_new = False
        for line in lines:
            if not line.strip():
                continue
            is_new = True
            try:
                event: Any = json.loads(line)
            except (ValueError, RecursionError):
                if model is self._model:
                    self._num_unreadable += 1
                continue
            model.add(event)
        if is_new and model is (self._glance or self._model):
            self._note_news(model)

    def _note_news(self, model: RunModel) -> None:
        """Remember when the run spoke last; of what lay in the file already, its own clock tells."""
        now_s, age_s = self._monotonic(), 0.0
        if not self._is_loaded and model.last_time_s is not None:
            age_s = self._clock() - model.last_time_s
            self._ahead_s = max(0.0, -age_s)
        self._news_at_s = now_s - max(0.0, age_s)

    # -- saying ----------------------------------------------------------------------------------------------

    def _view(self, *, is_alive: bool) -> RunView:
        model = self._glance or self._model
        status = self.run.status_after(
            model.ending, is_alive=is_alive, has_spoken=model.num_events > 0, is_paused=lambda: model.is_paused
        )
        silent_s = self._silent_s(status)
        ending = (model.ending if status in FINAL_STATUSES else None) or {}
        message, hint, summary = (ending.get(name) for name in ("message", "hint", "summary"))
        return RunView(
            path=self.run.path,
            name=self.run.name,
            status=status,
            status_text=self._status_text(status, silent_s, model),
            silent_s=silent_s,
            description=model.description,
            progress=model.progress() if status in LIVE_STATUSES else _at_rest(model.progress(), summary),
            stage=model.state.stage,
            curves=model.curves(),
            buffer=model.state.buffer,
            device=model.state.device,
            evaluation=model.state.evaluation,
            samples=model.state.samples,
            log=tuple(model.log),
            problems=tuple(self._problems(is_alive=is_alive)),
            summary=summary if isinstance(summary, dict) else None,
            message=message if isinstance(message, str) else "",
            hint=hint if isinstance(hint, str) else "",
            num_events=model.num_events,
            has_directory=is_folder(self.run.path),
            loaded=1.0 if self._is_loaded else min(0.999, self._tail.offset / max(1, self._tail.size)),
        )

    def _silent_s(self, status: str) -> float | None:
        is_at_end = self._is_loaded or self._glance is not None
        if status not in LIVE_STATUSES or self._news_at_s is None or not is_at_end:
            return None
        return max(0.0, self._monotonic() - self._news_at_s)

    def _status_text(self, status: str, silent_s: float | None, model: RunModel) -> str:
        if status == "dead":
            return "dead: its process is gone" if is_folder(self.run.path) else "its directory has vanished"
        silence = f", no news for {duration(silent_s)}" if silent_s is not None and silent_s >= SILENCE_S else ""
        if status == "running" and model.state.compiling is not None:
            return f"running, compiling {model.state.compiling}{silence}"
        if status == "running" and silence:
            return f"running{silence}"
        if status == "running" and model.state.views_judged is not None:
            return f"running, {views_text(*model.state.views_judged)}"
        return status

    def _problems(self, *, is_alive: bool) -> list[str]:
        model = self._model
        problems = [said for said in (self._error, self._notice) if said]
        num_damaged = self._num_unreadable + model.num_misfits + self._tail.num_too_long
        if num_damaged:
            was = "was" if num_damaged == 1 else "were"
            problems.append(f"{_lines(num_damaged)} of events.jsonl could not be read and {was} passed over")
        if model.newer_schemas:
            newest, num_events = max(model.newer_schemas), sum(model.newer_schemas.values())
            problems.append(
                f"{_lines(num_events)} of schema {newest}, this ssdkd knows {SCHEMA_VERSION}: "
                "something may be missing here; a newer ssdkd shows it"
            )
        if model.unknown_kinds:
            kinds = ", ".join(f"{kind[:40]} ({num})" for kind, num in model.unknown_kinds.most_common(5))
            problems.append(f"events of kinds unknown to this ssdkd: {kinds}")
        if self._is_loaded and self._tail.is_torn and not is_alive:
            problems.append("the last line is torn: the run ended while writing it")
        if self._ahead_s > _CLOCK_TOLERANCE_S:
            problems.append(
                f"the run's last event lies {self._ahead_s:.0f} s in the future: one of the clocks is wrong"
            )
        return problems


def _at_rest(progress: Progress | None, summary: Any) -> Progress | None:
    """The progress of a run whose process is gone: no stage of it is at work, and no time is left.

    Its epoch is the last that it finished, as in `ssdkd runs show`, where its summary tells.
    """
    if progress is None:
        return None
    stages = tuple(replace(stage, is_running=False, step=None) for stage in progress.stages)
    done = summary.get("epochs") if isinstance(summary, dict) else None
    epoch = done if isinstance(done, int) and 0 <= done <= progress.epoch else progress.epoch
    return replace(progress, stages=stages, left_s=None, ends_s=None, timed_after=None, epoch=epoch)


def _lines(num: int) -> str:
    return "1 line" if num == 1 else f"{num:,} lines"
