"""Where a run stands, and how it is shown with and without a terminal; the clock is ours."""

from __future__ import annotations

import io

import pytest

from ssdkd_cli import progress
from ssdkd_cli.progress import ProgressBar, ProgressLines, Standing, duration
from stages import events


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def started(epochs=10, warmup_epochs=4):
    return events.RunStarted(
        run="r",
        command="run",
        preset="digits",
        stages=("inversion", "distillation"),
        epochs=epochs,
        warmup_epochs=warmup_epochs,
        seed=0,
        device="cpu",
        precision="fp32",
        task="classification",
        num_classes=10,
        class_names=None,
        image_shape=(1, 8, 8),
        teacher="t",
        student="s",
        capacity=64,
        inversion_steps=2,
        distillation_steps=2,
    )


def inversion_step(loss=2.5):
    return events.InversionStep(step=1, num_steps=2, loss=loss, loss_bn=1.0, loss_task=1.0, loss_adversarial=0.5)


def distillation_step(loss=0.25, agreement=0.875):
    return events.DistillationStep(step=1, loss=loss, lr=0.1, agreement=agreement)


def run_epochs(listener, clock, first, last, *, seconds):
    """Epochs that take `seconds` each, two stages an epoch."""
    for epoch in range(first, last + 1):
        listener(events.StageStarted(stage="inversion"), epoch)
        listener(inversion_step(), epoch)
        clock.now_s += seconds / 2
        listener(events.StageStarted(stage="distillation"), epoch)
        listener(distillation_step(), epoch)
        clock.now_s += seconds / 2


def test_time_left_keeps_warm_up_and_the_other_epochs_apart():
    clock = Clock()
    standing = Standing(clock)
    standing.update(started(epochs=10, warmup_epochs=4), 1)
    run_epochs(standing.update, clock, 1, 4, seconds=1.0)
    assert standing.seconds_left() is None  # no epoch with distillation has been timed
    run_epochs(standing.update, clock, 5, 6, seconds=10.0)
    # Epoch 5 took 10 s; epoch 6 is at its end but not over: 5 epochs of 10 s from its beginning, less 10 s.
    assert standing.num_finished == 5
    assert standing.seconds_left() == pytest.approx(40.0)


def test_time_left_in_warm_up_counts_both_kinds_once_both_are_known():
    clock = Clock()
    standing = Standing(clock, epochs=10, warmup_epochs=4)
    standing.update(events.StageStarted(stage="inversion"), 5)
    clock.now_s = 7.0
    standing.update(events.StageStarted(stage="inversion"), 6)
    assert standing.seconds_left() == pytest.approx(5 * 7.0)


def test_the_time_left_is_never_negative():
    clock = Clock()
    standing = Standing(clock, epochs=2, warmup_epochs=0)
    standing.update(events.StageStarted(stage="inversion"), 1)
    clock.now_s = 1.0
    standing.update(events.StageStarted(stage="inversion"), 2)
    clock.now_s = 100.0
    assert standing.seconds_left() == 0.0


def test_a_pause_is_not_taken_for_slow_work():
    clock = Clock()
    standing = Standing(clock, epochs=10, warmup_epochs=0)
    run_epochs(standing.update, clock, 1, 2, seconds=10.0)
    standing.update(events.StageStarted(stage="inversion"), 3)
    for action, seconds in (("pause", 100.0), ("pause", 28_700.0), ("resume", 0.0), ("resume", 10.0)):
        standing.update(events.ControlAcknowledged(id="1", action=action, accepted=True, message=""), 3)
        assert standing.activity == ("paused" if action == "pause" else "inversion")
        clock.now_s += seconds
    standing.update(events.StageStarted(stage="inversion"), 4)
    assert standing.seconds_left() == pytest.approx(7 * 10.0)


def test_what_was_left_of_a_resumed_epoch_is_not_taken_for_a_fast_one():
    clock = Clock()
    standing = Standing(clock, epochs=10, warmup_epochs=0)
    standing.update(events.RunResumed(checkpoint="c", checkpoint_seq=3), 3)
    run_epochs(standing.update, clock, 3, 3, seconds=1.0)
    run_epochs(standing.update, clock, 4, 4, seconds=60.0)
    standing.update(events.StageStarted(stage="inversion"), 5)
    assert standing.seconds_left() == pytest.approx(6 * 60.0)


def test_lines_come_at_the_end_of_an_epoch_at_most_every_ten_seconds():
    clock, lines = Clock(), []
    listener = ProgressLines(lines.append, Standing(clock), clock)
    listener(started(epochs=60, warmup_epochs=1), 1)
    run_epochs(listener, clock, 1, 30, seconds=1.0)
    assert [line.partition(",")[0] for line in lines] == ["epoch 10/60", "epoch 20/60"]
    assert "inversion loss 2.500" in lines[0]
    assert "distillation loss 0.2500" in lines[0]
    assert "agreement 87.5%" in lines[0]
    assert lines[0].endswith("50 s left")


def test_long_epochs_give_one_line_each():
    clock, lines = Clock(), []
    listener = ProgressLines(lines.append, Standing(clock), clock)
    listener(started(epochs=4, warmup_epochs=1), 1)
    run_epochs(listener, clock, 1, 4, seconds=60.0)
    listener(events.RunFinished(status="done", message="done"), 4)
    assert [line.partition(",")[0] for line in lines] == [f"epoch {epoch}/4" for epoch in range(1, 5)]
    assert "left" not in lines[-1]


def test_a_short_run_says_nothing_on_the_way():
    clock, lines = Clock(), []
    listener = ProgressLines(lines.append, Standing(clock), clock)
    listener(started(epochs=4, warmup_epochs=1), 1)
    run_epochs(listener, clock, 1, 4, seconds=1.0)
    listener(events.RunFinished(status="done", message="done"), 4)
    assert lines == []


def test_the_epoch_in_which_a_run_is_stopped_is_not_told_as_done():
    clock, lines = Clock(), []
    listener = ProgressLines(lines.append, Standing(clock), clock)
    listener(started(epochs=4, warmup_epochs=1), 1)
    run_epochs(listener, clock, 1, 2, seconds=60.0)
    listener(events.RunFinished(status="stopped", message="stopped"), 2)
    assert [line.partition(",")[0] for line in lines] == ["epoch 1/4"]
    assert listener.standing.num_finished == 1


def test_a_resumed_run_knows_its_epochs_from_outside(capfd):
    clock = Clock()
    with progress.shown(epochs=8, warmup_epochs=2, clock=clock) as listener:
        listener(events.RunResumed(checkpoint="c", checkpoint_seq=3), 3)
        run_epochs(listener, clock, 4, 6, seconds=20.0)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert [line.partition(",")[0] for line in captured.err.splitlines()] == ["epoch 4/8", "epoch 5/8"]


def test_what_is_compiled_is_told_at_once(capfd):
    with progress.shown(clock=Clock()) as listener:
        listener(started(), 0)
        listener(events.StageStarted(stage="inversion"), 1)
        listener(events.CompilationStarted(what="the teacher"), 1)
    assert capfd.readouterr().err == "compiling the teacher\n"


def test_what_the_student_waits_for_is_told_now_and_then():
    clock, lines = Clock(), []
    listener = ProgressLines(lines.append, Standing(clock), clock)
    listener(started(epochs=60, warmup_epochs=20), 0)
    listener(events.StageStarted(stage="distillation"), 21)
    for done in range(64, 2561, 64):
        clock.now_s += 4.0
        listener(events.ViewsJudged(done=done, total=2560), 21)
        assert listener.standing.activity == (
            f"showing the teacher new images, {done:,} of 2,560" if done < 2560 else "distillation"
        )
    assert lines[:2] == ["showing the teacher new images, 192 of 2,560", "showing the teacher new images, 384 of 2,560"]
    assert len(lines) == 160 // 12


def test_warnings_go_to_stderr_with_their_hint(capfd):
    with progress.shown(clock=Clock()) as listener:
        listener(events.Warning(message="beta has no effect", hint="leave it out"), 1)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == "warning: beta has no effect\nhint: leave it out\n"


def test_the_bar_shows_epochs_stage_losses_and_time_left():
    from rich.console import Console

    clock = Clock()
    screen = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    bar = ProgressBar(screen, Standing(clock))
    bar(started(epochs=10, warmup_epochs=2), 1)
    run_epochs(bar, clock, 1, 4, seconds=2.0)
    with screen.capture() as captured:
        screen.print(bar)
    text = captured.get()
    for part in (
        "distillation",
        "3/10 epochs",
        "13 s left",  # seven epochs of 2 s, of which the first is half over
        "inversion loss 2.500",
        "distillation loss 0.2500",
        "agreement 87.5%",
    ):
        assert part in text


def test_the_bar_shows_what_is_compiled_until_it_is():
    clock = Clock()
    standing = Standing(clock)
    assert standing.activity == "starting"
    standing.update(events.StageStarted(stage="inversion"), 1)
    assert standing.activity == "inversion"
    standing.update(events.CompilationStarted(what="the generator"), 1)
    assert standing.activity == "compiling the generator"
    standing.update(events.Warning(message="x"), 1)
    assert standing.activity == "compiling the generator"
    standing.update(events.CompilationFinished(what="the generator", seconds=1.0), 1)
    assert standing.activity == "inversion"


def test_the_time_left_leaves_compiling_out():
    clock = Clock()
    standing = Standing(clock, epochs=3, warmup_epochs=0)
    standing.update(events.StageStarted(stage="inversion"), 1)
    standing.update(events.CompilationStarted(what="the generator"), 1)
    clock.now_s = 60.0
    standing.update(events.CompilationFinished(what="the generator", seconds=60.0), 1)
    clock.now_s = 62.0
    standing.update(events.StageStarted(stage="inversion"), 2)
    assert standing.seconds_left() == pytest.approx(2 * 2.0)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "terminal_kind", "shape"),
    [
        (Terminal(), "xterm-256color", ProgressBar),
        (Terminal(), "dumb", ProgressLines),
        (io.StringIO(), "xterm-256color", ProgressLines),
    ],
)
def test_the_bar_is_for_terminals_that_can_move_the_cursor(monkeypatch, stream, terminal_kind, shape):
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("TERM", terminal_kind)
    clock = Clock()
    with progress.shown(clock=clock) as listener:
        assert isinstance(listener, shape)
        listener(started(epochs=3, warmup_epochs=1), 1)
        run_epochs(listener, clock, 1, 3, seconds=20.0)
        listener(events.Warning(message="something"), 3)
    text = stream.getvalue()
    assert "warning:" in text
    assert ("\x1b[" in text) is (shape is ProgressBar)
    assert ("2/3 epochs" in text) is (shape is ProgressBar)
    assert ("epoch 2/3, " in text) is (shape is ProgressLines)


def test_a_teachers_training_is_told_now_and_then(capfd):
    clock = Clock()
    with progress.training_shown(clock) as listener:
        for epoch in range(1, 8):
            clock.now_s += 4.0
            listener(epoch, 200, 1.5, 0.5)
    assert capfd.readouterr().err.splitlines() == [
        "teacher: epoch 3/200, loss 1.500, accuracy 50.0%",
        "teacher: epoch 6/200, loss 1.500, accuracy 50.0%",
    ]


@pytest.mark.parametrize(
    ("is_certain", "num_epochs", "told"),
    [
        (True, 0, "interrupted the teacher's training: nothing new is kept\n"),
        (False, 1, "interrupted the teacher's training: the same command goes on from the last epoch saved\n"),
        (False, 0, ""),
    ],
)
def test_an_interrupted_training_says_what_is_kept(capfd, is_certain, num_epochs, told):
    def train():
        with progress.training_shown(is_certain=is_certain) as listener:
            for epoch in range(num_epochs):
                listener(epoch + 1, 200, 1.5, 0.5)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    assert capfd.readouterr().err == told


def test_a_training_that_goes_on_says_so(capfd):
    with progress.training_shown(Clock()) as listener:
        listener(61, 200, 1.5, 0.5)
        listener(62, 200, 1.5, 0.5)
    assert capfd.readouterr().err == "teacher: the interrupted training goes on after epoch 60\n"


@pytest.mark.parametrize("is_certain", [True, False])
def test_no_teacher_is_said_to_be_trained_before_one_is(monkeypatch, is_certain):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    with progress.training_shown(is_certain=is_certain) as listener:
        pass
    assert ("training the teacher" in terminal.getvalue()) is is_certain
    with progress.training_shown(is_certain=is_certain) as listener:
        listener(1, 200, 1.5, 0.5)
    assert "training the teacher, loss 1.500" in terminal.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.4, "59 s"), (125, "2 min 05 s"), (3600, "1 h 00 min"), (4350, "1 h 12 min")],
)
def test_durations_read_as_people_say_them(seconds, text):
    assert duration(seconds) == text
