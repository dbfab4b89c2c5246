"""How far a run has come, on stderr: a bar on a terminal, otherwise a plain line now and then.

Both are listeners of the run's events and keep no state that the run depends on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssdkd_cli import console, diagnostics
from ssdkd_cli.watching.model import RunModel
from ssdkd_cli.words import duration, views_text
from stages import events
from stages.events import Event

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from stages.teachers.train import Progress as TrainingProgress

Clock = Callable[[], float]

MIN_SECONDS_BETWEEN_LINES = 10.0


class Standing:
    """Where a run stands, as the dashboard has it, from the events that its own process tells."""

    def __init__(self, started: Mapping[str, Any] | None = None) -> None:
        """`started` is the first event of a run that is resumed, which does not tell it again."""
        self._model = RunModel(Path())
        self._num_told = 0
        self._stage: str | None = None
        """The stage at work, and after it until there is another."""
        self._loss_inversion: float | None = None
        self._loss_distillation: float | None = None
        self._agreement: float | None = None
        if started is not None:
            self._model.add(started)

    def update(self, event: Event, epoch: int) -> bool:
        """Take in one event; True where it is the last one of an epoch that is over."""
        self._model.add(json.loads(events.to_line(event, seq=self._num_told, epoch=epoch, time_s=0.0)))
        self._num_told += 1
        match event:
            case events.StageStarted():
                self._stage = event.stage
            case events.InversionStep():
                self._loss_inversion = event.loss
            case events.DistillationStep():
                self._loss_distillation, self._agreement = event.loss, event.agreement
            case events.Device():
                return self.num_finished == epoch  # a checkpoint within an epoch sends this event, too
        return False

    @property
    def epochs(self) -> int | None:
        """Epochs of the run; None before it has said so."""
        return None if self._model.description is None else self._model.description.epochs

    @property
    def num_finished(self) -> int:
        """Epochs that are over."""
        return self._model.num_finished

    @property
    def activity(self) -> str:
        """What the run does at present, in a word or two."""
        if self._model.is_paused:
            return "paused"
        if self._model.state.compiling is not None:
            return f"compiling {self._model.state.compiling}"
        if self._model.state.views_judged is not None:
            return views_text(*self._model.state.views_judged)
        return self._stage or "starting"

    @property
    def step(self) -> str:
        """Where within its epoch the run is: "distillation, step 280 of 400"; empty between its stages."""
        progress = self._model.progress()
        running = None if progress is None else progress.running
        return f"{running.stage}, {running.step_text}" if running is not None and running.step_text else ""

    def seconds_left(self) -> float | None:
        """Time until the run is over; None until an epoch of each kind still to come has been timed, and at the end."""
        progress = self._model.progress()
        return None if progress is None or self.num_finished == progress.epochs else progress.left_s

    def describe(self) -> str:
        """Losses of the last steps and agreement in the last batch, in words."""
        parts = [
            f"inversion loss {self._loss_inversion:.3f}" if self._loss_inversion is not None else "",
            f"distillation loss {self._loss_distillation:.4f}" if self._loss_distillation is not None else "",
            f"batch agreement {self._agreement:.1%}" if self._agreement is not None else "",
        ]
        return ", ".join(part for part in parts if part)


class ProgressLines:
    """A plain line at the end of an epoch, in the midst of a long one, and while the student waits for the teacher.

    At most one every ten seconds.
    """

    def __init__(self, write: Callable[[str], object], standing: Standing, clock: Clock) -> None:
        self.standing = standing
        self._write = write
        self._clock = clock
        self._last_line_s = clock()

    def __call__(self, event: Event, epoch: int) -> None:
        """Take in one event (`stages.events.Listener`)."""
        if isinstance(event, events.Warning):
            diagnostics.warn(event.message, hint=event.hint)
        if isinstance(event, events.CompilationStarted):
            self._write(f"compiling {event.what}")
        if isinstance(event, events.ControlAcknowledged):
            self._write(f"asked to {event.action}: {event.message}")
        if self.standing.update(event, epoch):
            self._write_now_and_then(self._line(epoch))
        elif isinstance(event, events.ViewsJudged):
            self._write_now_and_then(self.standing.activity)
        elif isinstance(event, events.Device) and (step := self.standing.step):
            self._write_now_and_then(f"{self._name(epoch)}, {step}")

    def tell_of_stop(self) -> None:
        """Say that the run will stop; called in a signal's handler."""
        diagnostics.say_that_a_stop_is_coming()

    def _write_now_and_then(self, line: str) -> None:
        now_s = self._clock()
        if now_s - self._last_line_s >= MIN_SECONDS_BETWEEN_LINES:
            self._last_line_s = now_s
            self._write(line)

    def _name(self, epoch: int) -> str:
        return f"epoch {epoch}/{self.standing.epochs}" if self.standing.epochs is not None else f"epoch {epoch}"

    def _line(self, finished: int) -> str:
        left_s = self.standing.seconds_left()
        parts = [self._name(finished), self.standing.describe()]
        if left_s is not None:
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
        self._is_stopping = False

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
        if self._is_stopping:
            detail = Text(diagnostics.STOP_IS_COMING, style="bold")
        return Group(self._bar.get_renderable(), detail)

    def tell_of_stop(self) -> None:
        """Say in the bar that the run will stop, for it draws over other lines; called in a signal's handler."""
        self._is_stopping = True


@contextmanager
def run_display(
    *, started: Mapping[str, Any] | None = None, as_lines: bool = False, clock: Clock = time.monotonic
) -> Iterator[ProgressLines | ProgressBar]:
    """A listener that shows the run's progress on stderr in the way that fits what stderr is.

    A resumed run does not tell its first event again: then it is given here. `as_lines` asks for plain lines on a
    terminal, too: a trainer with a viewer writes there only until its run has begun.
    """
    terminal = console.stderr()
    standing = Standing(started)
    if as_lines or not terminal.is_interactive:
        yield ProgressLines(diagnostics.note, standing, clock)
        return
    from rich.live import Live

    bar = ProgressBar(terminal, standing)
    with Live(bar, console=terminal, refresh_per_second=4, transient=True):
        yield bar


@contextmanager
def training_display(clock: Clock = time.monotonic, *, is_certain: bool = True) -> Iterator[TrainingProgress]:
    """The same for a teacher that is trained: one bar, or a line at the end of an epoch now and then.

    Where it is not certain that one is trained, there is no bar before an epoch is over. One that is interrupted says
    what is kept of it, and one that goes on says that.
    """
    terminal, is_training, num_told = console.stderr(), is_certain, 0
    try:
        with _training_drawn(terminal, clock, is_certain=is_certain) as draw:

            def tell(epoch: int, epochs: int, loss: float, accuracy: float) -> None:
                nonlocal is_training, num_told
                if num_told == 0 and epoch > 1:
                    with diagnostics.ignoring_output_errors():
                        terminal.print(f"teacher: the interrupted training goes on after epoch {epoch - 1}")
                is_training, num_told = True, num_told + 1
                draw(epoch, epochs, loss, accuracy)

            yield tell
    except KeyboardInterrupt:
        if is_training:
            kept = "the same command goes on from the last epoch saved" if num_told else "nothing new is kept"
            with diagnostics.ignoring_output_errors():
                diagnostics.note(f"interrupted the teacher's training: {kept}")
        raise


@contextmanager
def _training_drawn(terminal: Console, clock: Clock, *, is_certain: bool) -> Iterator[TrainingProgress]:
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
            with diagnostics.ignoring_output_errors():  # a full disk is no reason to lose a teacher
                diagnostics.note(f"teacher: epoch {epoch}/{epochs}, loss {loss:.3f}, accuracy {accuracy:.1%}")

    yield write
