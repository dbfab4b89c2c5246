"""A step of training that is run by Python a few times, then recorded, then played without Python.

On a fast device the host needs longer to launch the thousand kernels of a step than the device to run them; a recorded
step is one launch. A step that can be recorded keeps to three rules:

- What differs between calls is in its inputs, tensors whose shapes stay.
- What it changes are tensors that outlive it, in place: weights, the optimiser's state, statistics. No Python value.
- It never looks at a value on the device.

Its outputs are tensors without a history of gradients. They are valid until the next call of any step of the run: the
recordings share their memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from torch import Tensor

from stages.events import Warning

if TYPE_CHECKING:
    from stages.run import Run

InputsT = TypeVar("InputsT", bound=tuple[Any, ...])
"""A named tuple of tensors, of None, and of such tuples."""
OutputsT = TypeVar("OutputsT")

NUM_REHEARSALS = 3
"""Calls that run as they are before one is recorded. Libraries choose their kernels in them, optimisers allocate."""


class Tape(Protocol):
    """How a device records the work of a step."""

    @property
    def is_spent(self) -> bool:
        """Whether nothing can be recorded or played any more: the device did not bear a recording that failed."""

    def rehearse(self, step: Callable[[], OutputsT]) -> tuple[OutputsT, bool]:
        """Run a step in the surroundings of a recording. Its outputs, and whether it waited for the device."""

    def record(self, step: Callable[[], OutputsT]) -> tuple[OutputsT, Callable[[], None]]:
        """Record a step without running it. What will hold its outputs, and what plays it.

        May raise anything that the step raises, and more; nothing has run then. The device is as it was, but for what
        `is_spent` says.
        """

    def another(self) -> Tape:
        """A tape of the same kind for steps that are played beside those of this one."""


class RecordedStep(Generic[InputsT, OutputsT]):
    """A step that is recorded where the run has a tape, and run as it is where it has none.

    The rehearsals are steps like any other: nothing is run twice and nothing has to be undone. A step that cannot be
    recorded (data-dependent control flow in a network, say) is run as it is from then on, with a warning.
    """

    def __init__(self, run: Run, name: str, step: Callable[[InputsT], OutputsT]) -> None:
        """`name` is what warnings call it."""
        self._run = run
        self._name = name
        self._step = step
        self._tape = run.tape
        self._num_rehearsals = 0
        self._recording: _Recording[InputsT, OutputsT] | None = None

    def __call__(self, inputs: InputsT) -> OutputsT:
        """Do the step."""
        if self._tape is not None and self._tape.is_spent:
            self._tape = self._recording = None
        if self._recording is not None:
            return self._recording.play(inputs) if self._recording.fits(inputs) else self._step(inputs)
        if self._tape is None or not self._run.may_record():
            return self._step(inputs)
        if self._num_rehearsals < NUM_REHEARSALS:
            return self._rehearse(self._tape, inputs)
        return self._record_and_play(self._tape, inputs)

    def _rehearse(self, tape: Tape, inputs: InputsT) -> OutputsT:
        is_first = self._num_rehearsals == 0  # libraries are loaded in it, and their kernels searched
        with self._run.charged_to("setup") if is_first else nullcontext():
            outputs, has_waited = tape.rehearse(lambda: self._step(inputs))
        self._num_rehearsals += 1
        if has_waited and self._num_rehearsals == NUM_REHEARSALS:  # the first ones may wait for libraries to load
            self._give_up("it waits for the device")
        return outputs

    def _record_and_play(self, tape: Tape, inputs: InputsT) -> OutputsT:
        reason = ""
        try:
            with self._run.charged_to("setup"):
                self._recording = _Recording(tape, self._step, inputs)
        except Exception as error:  # a stranger's network is in it: it may fail in ways of its own
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
        if self._recording is None:  # here the error is gone, and with it the memory that its traceback held
            self._give_up(reason)
            return self._step(inputs)
        return self._recording.play(inputs)

    def _give_up(self, reason: str) -> None:
        is_the_end = self._tape is not None and self._tape.is_spent
        self._tape = None
        self._run.emit(
            Warning(
                message=f"{self._name} is not recorded and runs slower: {reason}"
                + ("; nor is any other step from now on" if is_the_end else ""),
                hint="the result is the same; run.acceleration=eager records nothing",
            )
        )


class _Recording(Generic[InputsT, OutputsT]):
    """A recorded step: tensors that inputs are copied to, the tensors of its outputs, and what plays it."""

    def __init__(self, tape: Tape, step: Callable[[InputsT], OutputsT], inputs: InputsT) -> None:
        self._inputs: InputsT = _copied(inputs)
        self._outputs, self._play = tape.record(lambda: step(self._inputs))

    def fits(self, inputs: InputsT) -> bool:
        """Whether inputs have the shapes and types of those that were recorded."""
        return _layout(inputs) == _layout(self._inputs)

    def play(self, inputs: InputsT) -> OutputsT:
        """Do the step again, with other inputs."""
        for own, given in zip(_tensors(self._inputs), _tensors(inputs), strict=True):
            own.copy_(given)
        self._play()
        return self._outputs


def _copied(value: Any) -> Any:
    """The same with tensors of its own."""
    if isinstance(value, tuple):  # a named one takes its fields one by one
        return type(value)(*map(_copied, value))
    return None if value is None else value.clone()


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, tuple):
        for part in value:
            yield from _tensors(part)
    elif value is not None:
        yield value


def _layout(value: Any) -> object:
    if isinstance(value, tuple):
        return [_layout(part) for part in value]
    return None if value is None else (value.shape, value.dtype)
