"""Inversion beside distillation: the images of the next epoch are made while the student learns from those at hand.

    epoch e      insert the images of e | begin those of e + 1 from the student as it is now | distillation
    epoch e + 1  wait for them, insert  | begin those of e + 2 ...

So the adversarial term sees a student that is one epoch old. When the work is done, at once or in between, changes
nothing of what comes out.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from typing import Any, TypeVar

import torch

from stages.captured_step import NUM_REHEARSALS
from stages.events import Event, InversionStep
from stages.inversion.method import Inverted
from stages.run import Run

ResultT = TypeVar("ResultT")


class Overlap:
    """Runs an inversion method on copies of teacher and student, in a thread and on a CUDA stream of its own.

    On a CPU the run's threads are shared out while both work: half of them make images.
    """

    def __init__(self, run: Run) -> None:
        self._main = run
        self._said: list[Event] = []
        self.run = replace(
            run,
            teacher=copy.deepcopy(run.teacher),
            student=copy.deepcopy(run.student),
            tape=None if run.tape is None else run.tape.another(),
            emit=self._said.append,
            safe_point=lambda: None,
            charged_to=lambda _account: nullcontext(),
        )
        """What the method is set up with and sees of the run."""
        self._stream = torch.cuda.Stream(run.device) if run.device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="inversion")
        self._at_work: Future[list[Inverted]] | None = None
        self._made: list[Inverted] = []
        self._num_threads = torch.get_num_threads()
        self._num_to_wait = _num_epochs_until_recorded(run)

    def now(self, work: Callable[[Run], ResultT]) -> ResultT:
        """Do some of the present epoch's work at once, with the student as it is."""
        self._prepare(self._main.epoch, call=self._main.call)
        with self._lane(self._num_threads):
            result = work(self.run)
        self._join_streams()
        self._tell()
        return result

    def begin(self, invert: Callable[[Run], Inverted]) -> None:
        """Begin the calls of the next epoch, from the student as it is now."""
        run = self._main
        self._prepare(run.epoch + 1, call=0)
        num_calls = run.schedule.num_calls(run.epoch + 1)

        def make() -> list[Inverted]:
            made = []
            with self._lane(max(1, self._num_threads // 2)):
                for self.run.call in range(num_calls):
                    made.append(invert(self.run))
            return made

        self._share_cores()
        self._at_work = self._thread.submit(make)
        if self._is_alone():
            self._finish()

    def take(self) -> Inverted | None:
        """The next of the images that were begun in the epoch before; None where there are none left."""
        self._finish()
        if not self._made:
            return None
        if self._main.device.type == "cpu":
            torch.set_num_threads(self._num_threads)
        self._tell()
        return self._made.pop(0)

    def state_dict(self) -> dict[str, Any]:
        """Images that are made and not inserted yet, and what is to be told of them. Waits for those at work."""
        self._finish()
        return {
            "made": [list(inverted) for inverted in self._made],
            "said": [asdict(event) for event in self._said if isinstance(event, InversionStep)],
            "num_trained": self.run.num_trained,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        device = self._main.device
        self._made = [Inverted(*(tensor.to(device) for tensor in inverted)) for inverted in state["made"]]
        self._said.extend(InversionStep(**values) for values in state["said"])
        self.run.num_trained = state["num_trained"]
        if self._made:
            self._share_cores()

    def _prepare(self, epoch: int, *, call: int) -> None:
        """Bring the copy of the run up to date. The copies' last work is over."""
        run, own = self._main, self.run
        own.epoch, own.call = epoch, call
        given, kept = _tensors(run), _tensors(own)
        with torch.no_grad():
            torch._foreach_copy_(kept, given)
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(run.device))

    @contextmanager
    def _lane(self, num_threads: int) -> Iterator[None]:
        """Where the work of this class is done. Number of threads, current device and stream are those of a thread."""
        if self._stream is None:
            torch.set_num_threads(num_threads)
            yield
        else:
            with torch.cuda.device(self._main.device), torch.cuda.stream(self._stream):
                yield

    def _finish(self) -> None:
        """Wait for the work that was begun. Raises what it raised."""
        if self._at_work is None:
            return
        at_work, self._at_work = self._at_work, None
        self._made = at_work.result()
        self._join_streams()

    def _join_streams(self) -> None:
        if self._stream is not None:
            torch.cuda.current_stream(self._main.device).wait_stream(self._stream)

    def _share_cores(self) -> None:
        """Leave some of the run's CPU threads to the work that is begun, until its images are taken."""
        if self._main.device.type == "cpu":
            torch.set_num_threads(max(1, self._num_threads - self._num_threads // 2))

    def _is_alone(self) -> bool:
        """Whether nothing may go on beside the work: there is one thread, or steps are still to be recorded."""
        self._num_to_wait -= 1
        return self._num_to_wait >= 0 or (self._main.device.type == "cpu" and self._num_threads < 2)

    def _tell(self) -> None:
        """Hand on what the copy of the run was told."""
        for event in self._said:
            self._main.emit(event)
        self._said.clear()
        self._main.num_trained += self.run.num_trained
        self.run.num_trained = 0


def _tensors(run: Run) -> list[torch.Tensor]:
    """What changes of a run's student."""
    return [*run.student.parameters(), *run.student.buffers()]


def _num_epochs_until_recorded(run: Run) -> int:
    """Epochs with distillation after which all steps of a process are recorded: a recording bears nothing beside it."""
    if run.tape is None:
        return 0
    config = run.config
    num_steps = min(config.num_distillation_steps, config.inversion.steps * config.inversion.calls)
    return math.ceil((NUM_REHEARSALS + 1) / num_steps) + 1
