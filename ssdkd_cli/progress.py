"""How far a run has come, on stderr: a bar on a terminal, otherwise a plain line now and then.

Both are listeners of the run's events and keep no state that the run depends on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ssdkd_cli import console, diagnostics
from ssdkd_cli.pace import Pace
from stages import events
from stages.events import Event, Listener

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

Clock = Callable[[], float]

MIN_SECONDS_BETWEEN_LINES = 10.0


class Standing:
    """Where a run stands, reduced from its events: epoch, stage, losses, agreement, time left."""

    def __init__(self, clock: Clock = time.monotonic, *, epochs: int | None = None, warmup_epochs: int = 0) -> None:
        self._clock = clock
        self.epochs = epochs
        self.warmup_epochs = warmup_epochs
        self.epoch = 0
        self.stage: str | None = None
        self.compiling: str | None = None
        """What is compiled at present."""
        self.views_judged: events.ViewsJudged | None = None
        """How far the teacher is with the views of new images, which the student waits for."""
        self.loss_inversion: float | None = None
        self.loss_distillation: float | None = None
        self.agreement: float | None = None
        self.is_finished = False
        self._epoch_started_s: float | None = None
        self._is_whole_epoch = True
        self._paused_s: float | None = None
        self._pace = Pace()

    def update(self, event: Event, epoch: int) -> bool:
        """Take in one event; True where it shows that an epoch has come to its end."""
        epoch_ended = False
        match event:
            case events.RunStarted():
                self.epochs, self.warmup_epochs = event.epochs, event.warmup_epochs
            case events.RunResumed():
                self._is_whole_epoch = False  # what is left of an epoch is no measure of one
            case events.StageStarted():
                epoch_ended = self._enter_epoch(epoch)
                self.stage = event.stage
            case events.CompilationStarted():
                self.compiling = event.what
            case events.CompilationFinished():
                self.compiling = None
                self._leave_out(event.seconds)
            case events.ControlAcknowledged(action="pause", accepted=True):
                self._paused_s = self._clock() if self._paused_s is None else self._paused_s
            case events.ControlAcknowledged(action="resume", accepted=True) if self._paused_s is not None:
                self._leave_out(self._clock() - self._paused_s)
                self._paused_s = None
            case events.ViewsJudged():
                self.views_judged = event if event.done < event.total else None
            case events.InversionStep():
                self.loss_inversion = event.loss
            case events.DistillationStep():
                self.loss_distillation, self.agreement = event.loss, event.agreement
            case events.RunFinished():
                # A run that is stopped, or fails, leaves its last epoch unfinished.
                epoch_ended = self.is_finished = event.status == "done" and self.epoch > 0
        return epoch_ended

    def _leave_out(self, seconds: float) -> None:
        """What no other epoch will take: compiling, a pause."""
        if self._epoch_started_s is not None:
            self._epoch_started_s += seconds

    def _enter_epoch(self, epoch: int) -> bool:
        if epoch == self.epoch:
            return False
        now_s = self._clock()
        if self._epoch_started_s is not None:
            if self._is_whole_epoch:
                self._pace.add(now_s - self._epoch_started_s, is_warmup=self.epoch <= self.warmup_epochs)
            self._is_whole_epoch = True
        had_epoch = self.epoch > 0
        self.epoch, self._epoch_started_s = epoch, now_s
        return had_epoch

    @property
    def activity(self) -> str:
        """What the run does at present, in a word or two."""
        if self._paused_s is not None:
            return "paused"
        if self.compiling is not None:
            return f"compiling {self.compiling}"
        if self.views_judged is not None:
            return views_text(self.views_judged.done, self.views_judged.total)
        return self.stage or "starting"

    @property
    def num_finished(self) -> int:
        """Epochs that are over."""
        return self.epoch if self.is_finished else max(0, self.epoch - 1)

    def seconds_left(self) -> float | None:
        """Time until the run is over; None until an epoch of each kind still to come has been timed."""
        if self.epochs is None or self._epoch_started_s is None:
            return None
        num_warmup = max(0, self.warmup_epochs - self.num_finished)
        num_main = max(0, self.epochs - self.num_finished) - num_warmup
        left_s = self._pace.seconds_left(num_warmup, num_main)
        return None if left_s is None else max(0.0, left_s - (self._clock() - self._epoch_started_s))

    def describe(self) -> str:
        """Losses and agreement of the last steps, in words."""
        parts = [
            f"inversion loss {self.loss_inversion:.3f}" if self.loss_inversion is not None else "",
            f"distillation loss {self.loss_distillation:.4f}" if self.loss_distillation is not None else "",
            f"agreement {self.agreement:.1%}" if self.agreement is not None else "",
        ]
        return ", ".join(part for part in parts if part)


def views_text(done: int, total: int) -> str:
    """What the student waits for while the teacher looks at new images."""
    return f"showing the teacher new images, {done:,} of {total:,}"


def duration(seconds: float) -> str:
    """Seconds as people say them: `8 s`, `2 min 05 s`, `1 h 12 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class ProgressLines:
    """One plain line at the end of an epoch, and while the student waits for the teacher, at most every ten seconds."""

    def __init__(self, write: Callable[[str], object], standing: Standing, clock: Clock) -> None:
        self.standing = standing
        self._write = write
        self._clock = clock
        self._last_line_s = clock()

    def __call__(self, event: Event, epoch: int) -> None:
        """Take in one event (`stages.events.Listener`)."""
        if isinstance(event, events.Warning):
            diagnostics.warn(event.message, hint=event.hint)
        finished = self.standing.epoch
        if isinstance(event, events.CompilationStarted):
            self._write(f"compiling {event.what}")
        if self.standing.update(event, epoch):
            self._write_now_and_then(self._line(finished))
        elif isinstance(event, events.ViewsJudged):
            self._write_now_and_then(self.standing.activity)

    def _write_now_and_then(self, line: str) -> None:
        now_s = self._clock()
        if now_s - self._last_line_s >= MIN_SECONDS_BETWEEN_LINES:
            self._last_line_s = now_s
            self._write(line)

    def _line(self, finished: int) -> str:
        total = f"/{self.standing.epochs}" if self.standing.epochs is not None else ""
        left_s = self.standing.seconds_left()
        parts = [f"epoch {finished}{total}", self.standing.describe()]
        if left_s is not None and not self.standing.is_finished:
            parts.append(f"{duration(left_s)} left")
        return ", ".join(part for part in parts if part)


class ProgressBar:
    """A live bar over all epochs with the current stage, losses, agreement and time left."""

    def __init__(self, terminal: Console, standing: Standing) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self.standing = standing
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f} epochs"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=terminal,
        )
        self._task = self._bar.add_task("starting", total=None, left="", visible=False)

    def __call__(self, event: Event, epoch: int) -> None:
        """Take in one event (`stages.events.Listener`)."""
        if isinstance(event, events.Warning):
            diagnostics.warn(event.message, hint=event.hint)
        self.standing.update(event, epoch)
        left_s = self.standing.seconds_left()
        self._bar.update(
            self._task,
            total=self.standing.epochs,
            completed=self.standing.num_finished,
            description=self.standing.activity,
            left="" if left_s is None else f"{duration(left_s)} left",
            visible=self.standing.epochs is not None,
        )

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        detail = Text(self.standing.describe(), style="dim", no_wrap=True, overflow="ellipsis")
        return Group(self._bar.get_renderable(), detail)


@contextmanager
def shown(
    *, epochs: int | None = None, warmup_epochs: int = 0, as_lines: bool = False, clock: Clock = time.monotonic
) -> Iterator[Listener]:
    """A listener that shows the run's progress on stderr in the way that fits what stderr is.

    A resumed run does not tell its epochs again: then they are given here. `as_lines` is for a process whose stderr
    is a terminal only as yet.
    """
    terminal = console.stderr()
    standing = Standing(clock, epochs=epochs, warmup_epochs=warmup_epochs)
    if as_lines or not terminal.is_interactive:
        yield ProgressLines(diagnostics.note, standing, clock)
        return
    from rich.live import Live

    bar = ProgressBar(terminal, standing)
    with Live(bar, console=terminal, refresh_per_second=4, transient=True):
        yield bar


TrainingListener = Callable[[int, int, float, float], None]
"""Called after each epoch of a teacher's training: (epoch from 1, epochs, mean loss, accuracy in [0, 1])."""


@contextmanager
def training_shown(clock: Clock = time.monotonic, *, is_certain: bool = True) -> Iterator[TrainingListener]:
    """The same for the training of a teacher: one bar, or a line at the end of an epoch now and then.

    Where it is not certain that one is trained, there is no bar before an epoch is over. One that is interrupted says
    what is kept of it, and one that goes on says that.
    """
    terminal, is_training, num_told = console.stderr(), is_certain, 0
    try:
        with _training_drawn(terminal, clock, is_certain=is_certain) as draw:

            def tell(epoch: int, epochs: int, loss: float, accuracy: float) -> None:
                nonlocal is_training, num_told
                if num_told == 0 and epoch > 1:
                    with suppress(OSError):  # as below
                        terminal.print(f"teacher: the interrupted training goes on after epoch {epoch - 1}")
                is_training, num_told = True, num_told + 1
                draw(epoch, epochs, loss, accuracy)

            yield tell
    except KeyboardInterrupt:
        if is_training:
            kept = "the same command goes on from the last epoch saved" if num_told else "nothing new is kept"
            with diagnostics.unheard():
                diagnostics.note(f"interrupted the teacher's training: {kept}")
        raise


@contextmanager
def _training_drawn(terminal: Console, clock: Clock, *, is_certain: bool) -> Iterator[TrainingListener]:
    if terminal.is_interactive:
        from rich.progress import Progress

        with Progress(console=terminal, transient=True) as bar:
            task = bar.add_task("training the teacher", visible=is_certain)

            def move(epoch: int, epochs: int, loss: float, accuracy: float) -> None:
                text = f"training the teacher, loss {loss:.3f}, accuracy {accuracy:.1%}"
                bar.update(task, total=epochs, completed=epoch, description=text, visible=True)

            yield move
        return
    last_line_s = clock()

    def write(epoch: int, epochs: int, loss: float, accuracy: float) -> None:
        nonlocal last_line_s
        if clock() - last_line_s >= MIN_SECONDS_BETWEEN_LINES:
            last_line_s = clock()
            with suppress(OSError):  # a full disk under stderr is no reason to lose a teacher
                diagnostics.note(f"teacher: epoch {epoch}/{epochs}, loss {loss:.3f}, accuracy {accuracy:.1%}")

    yield write
