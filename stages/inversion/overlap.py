"""Inversion beside distillation: the images of the next epoch are made while the student learns from those at hand.

    epoch e      insert the images of e | begin those of e + 1 from the student as it is now | distillation
    epoch e + 1  wait for them, insert  | begin those of e + 2 ...

So the adversarial term sees a student that is one epoch old. The images do not depend on when the work is done.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, fields, replace
from functools import partial
from typing import Any, TypeVar

import torch

from stages.events import CompilationFinished, CompilationStarted, Event, InversionStep
from stages.inversion.method import Inverted
from stages.models.copying import copied
from stages.models.layers import parameters_and_buffers
from stages.run import Run

ResultT = TypeVar("ResultT")


class Overlap:
    """Runs an inversion method on copies of teacher and student, in a thread and on a CUDA stream of its own.

    On a CPU the run's threads are shared out while both work: half of them make images. Where there is one thread, or
    compiled code, which is compiled for a number of threads, images are made at once.
    """

    def __init__(self, run: Run) -> None:
        self._main = run
        self._said: list[Event] = []
        self.run = replace(
            run,
            teacher=copied(run.teacher),
            student=copied(run.student),
            tape=None if run.tape is None else run.tape.another(),
            may_record=self._may_record_beside,
            emit=self._note,
            safe_point=lambda: None,
        )
        """What the method is set up with and sees of the run."""
        self._stream = torch.cuda.Stream(run.device) if run.device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._jobs: queue.SimpleQueue[tuple[Callable[[], list[Inverted]], Future[list[Inverted]]] | None]
        self._jobs = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        """One for all epochs: what libraries find out about a device they keep for each thread."""
        self._at_work: Future[list[Inverted]] | None = None
        self._is_closed = False
        self._main_thread = threading.get_ident()
        self._made: list[Inverted] = []
        self._num_threads = torch.get_num_threads()
        self._shares_cores = self._stream is None and can_overlap_on_cpu(run.config.run.acceleration, self._num_threads)
        self._must_be_alone = run.tape is not None
        """Whether the method's steps are to be recorded yet, as far as its last work has shown."""
        run.may_record = self._may_record_alone

    def now(self, work: Callable[[Run], ResultT]) -> ResultT:
        """Do some of the present epoch's work at once, with the student as it is."""
        self._prepare(self._main.epoch, call=self._main.call, charged_to=self._main.charged_to)
        try:
            with self._lane(self._num_threads):
                result = work(self.run)
        finally:
            self._tell()
        self._join_streams()
        return result

    def begin(self, invert: Callable[[Run], Inverted]) -> None:
        """Begin the calls of the next epoch, from the student as it is now."""
        assert not self._is_closed
        run, is_alone = self._main, self._is_alone()
        self._must_be_alone = False
        nobody: Callable[[str], AbstractContextManager[None]] = lambda _account: nullcontext()  # noqa: E731
        self._prepare(run.epoch + 1, call=0, charged_to=run.charged_to if is_alone else nobody)
        work = partial(self._make, invert, run.schedule.num_calls(run.epoch + 1))
        if is_alone:
            try:
                self._made = work()
            except BaseException:  # a Ctrl-C, too: what was said until then is told, and it is raised again
                self._tell()
                raise
            self._join_streams()
        else:
            if self._thread is None:  # a daemon: a process that ends without `close` does not wait for it
                self._thread = threading.Thread(target=_serve, args=(self._jobs,), name="inversion", daemon=True)
                self._thread.start()
            self._at_work = Future()
            self._jobs.put((work, self._at_work))
        self._leave_cores()

    def take(self) -> Inverted | None:
        """The next of the images that were begun in the epoch before; None where there are none left."""
        try:
            self._finish()
        finally:
            self._take_cores()
            self._tell()
        return self._made.pop(0) if self._made else None

    def _note(self, event: Event) -> None:
        """Keep what the method says until its images are taken. Of what is compiled only this thread tells, at once."""
        if not isinstance(event, CompilationStarted | CompilationFinished):
            self._said.append(event)
        elif threading.get_ident() == self._main_thread:
            self._main.emit(event)

    def close(self) -> None:
        """Wait for the call at work, even where the process is to end: torch must not be cut off. Begin no other."""
        self._is_closed = True
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
        self._take_cores()

    def state_dict(self) -> dict[str, Any]:
        """Images that are made and not inserted yet, and the steps that are to be told of with them.

        Waits for those at work; whatever else was said of them, a warning for example, is told now. Raises what went
        wrong with them: a run cannot go on from there.
        """
        self._finish()
        others = [event for event in self._said if not isinstance(event, InversionStep)]
        self._said = [event for event in self._said if isinstance(event, InversionStep)]
        for event in others:
            self._main.emit(event)
        return {
            "made": [list(inverted) for inverted in self._made],
            "said": [asdict(event) for event in self._said],
            "num_trained": self.run.num_trained,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        device = self._main.device
        self._made = [Inverted(*(tensor.to(device) for tensor in inverted)) for inverted in state["made"]]
        known = {field.name for field in fields(InversionStep)}  # a method's own terms may be in it
        self._said.extend(
            InversionStep(**{name: value for name, value in values.items() if name in known})
            for values in state["said"]
        )
        self.run.num_trained = state["num_trained"]
        if self._made:
            self._leave_cores()

    def _make(self, invert: Callable[[Run], Inverted], num_calls: int) -> list[Inverted]:
        made = []
        with self._lane(self._num_threads // 2 if self._shares_cores else self._num_threads):
            for self.run.call in range(num_calls):
                if self._is_closed:
                    break
                made.append(invert(self.run))
        return made

    def _prepare(self, epoch: int, *, call: int, charged_to: Callable[[str], AbstractContextManager[None]]) -> None:
        """Bring the copy of the run up to date. The copies' last work is over."""
        run, own = self._main, self.run
        own.epoch, own.call, own.charged_to = epoch, call, charged_to
        with torch.no_grad():  # the teacher stays as it is
            torch._foreach_copy_(parameters_and_buffers(own.student), parameters_and_buffers(run.student))
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(run.device))

    @contextmanager
    def _lane(self, num_threads: int) -> Iterator[None]:
        """Where the work of this class is done. Number of threads, current device and stream are those of a thread."""
        if self._stream is None:
            if self._shares_cores:
                torch.get_num_threads()  # else a new thread's first work sets the number to that of the process
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

    def _leave_cores(self) -> None:
        """Leave some of the run's CPU threads to the work that is begun, until its images are taken."""
        if self._shares_cores:
            torch.set_num_threads(self._num_threads - self._num_threads // 2)

    def _take_cores(self) -> None:
        if self._shares_cores:
            torch.set_num_threads(self._num_threads)

    def _is_alone(self) -> bool:
        """Whether nothing may go on beside the work that is to begin."""
        return self._must_be_alone or (self._stream is None and not self._shares_cores)

    def _may_record_alone(self) -> bool:
        """Wait for the work that was begun, so that the student's step can be recorded. Leaves its errors to `take`."""
        if self._at_work is not None:
            wait([self._at_work])
            self._join_streams()
        return True

    def _may_record_beside(self) -> bool:
        """Whether the method's step can be recorded: not while the student learns. If not now, the next time."""
        self._must_be_alone = True
        return threading.get_ident() == self._main_thread

    def _tell(self) -> None:
        """Emit, in the run itself, the events that the method has emitted in its copy of it."""
        for event in self._said:
            self._main.emit(event)
        self._said.clear()
        self._main.num_trained += self.run.num_trained
        self.run.num_trained = 0


def can_overlap_on_cpu(acceleration: str, num_threads: int) -> bool:
    """Whether a CPU has threads to share out between stages."""
    return num_threads > 1 and acceleration != "compile"


def _serve(jobs: queue.SimpleQueue[tuple[Callable[[], ResultT], Future[ResultT]] | None]) -> None:
    """What the thread runs: the jobs of the queue one after the other, until None comes."""
    while (job := jobs.get()) is not None:
        work, at_work = job
        try:
            at_work.set_result(work())
        except BaseException as error:  # whatever ended it: it is raised again by the thread that waits for the result
            at_work.set_exception(error)
        del job, work, at_work  # nothing is held while the thread waits
