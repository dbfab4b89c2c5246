"""Where a run stands, and how it is shown with and without a terminal; the clock is ours."""

from __future__ import annotations

import io
import json

import pytest
from hand_clock import HandClock
from run_files import started

from ssdkd_cli import progress
from ssdkd_cli.progress import ProgressBar, ProgressLines, Standing
from stages import events


def two_stages(epochs=10, warmup_epochs=4):
    stages = ("inversion", "distillation")
    return started(epochs=epochs, warmup_epochs=warmup_epochs, stages=stages, inversion_steps=2, distillation_steps=2)


def inversion_step(loss=2.5):
    return events.InversionStep(step=1, num_steps=2, loss=loss, loss_bn=1.0, loss_task=1.0, loss_adversarial=0.5)


def distillation_step(loss=0.25, agreement=0.875):
    return events.DistillationStep(step=1, loss=loss, lr=0.1, agreement=agreement)


def run_epochs(listener, clock, first, last, *, seconds):
    """Epochs that take `seconds` each, two stages an epoch. The run's accounts begin when the clock does."""
    for epoch in range(first, last + 1):
        for stage, step in (("inversion", inversion_step()), ("distillation", distillation_step())):
            listener(events.StageStarted(stage=stage), epoch)
            listener(step, epoch)
            clock.now_s += seconds / 2
            listener(events.StageFinished(stage=stage, seconds=seconds / 2), epoch)
        listener(device(clock.now_s), epoch)


def device(total_s, **accounts):
    seconds = {**accounts, "total": total_s}
    return events.Device(device="cpu", seconds=seconds, utilisation=None, mem_mib=None, images_per_s=None)


def test_time_left_keeps_warm_up_and_the_other_epochs_apart():
    clock, standing = HandClock(), Standing()
    standing.update(two_stages(epochs=10, warmup_epochs=4), 0)
    run_epochs(standing.update, clock, 1, 4, seconds=1.0)
    assert standing.seconds_left() is None  # no epoch with distillation has been timed
    run_epochs(standing.update, clock, 5, 6, seconds=10.0)
    assert standing.num_finished == 6
    assert standing.seconds_left() == pytest.approx(40.0)


def test_time_left_falls_within_an_epoch():
    clock, standing = HandClock(), Standing()
    standing.update(two_stages(epochs=10, warmup_epochs=0), 0)
    run_epochs(standing.update, clock, 1, 4, seconds=10.0)
    standing.update(events.StageStarted(stage="inversion"), 5)
    standing.update(events.StageFinished(stage="inversion", seconds=5.0), 5)
    assert standing.num_finished == 4
    assert standing.seconds_left() == pytest.approx(55.0)


def test_what_an_epoch_pays_once_is_no_measure_of_others():
    standing = Standing()
    standing.update(two_stages(epochs=10, warmup_epochs=0), 0)
    for epoch, setup_s in ((1, 0.0), (2, 60.0)):
        for stage in ("inversion", "distillation"):
            standing.update(events.StageFinished(stage=stage, seconds=5.0), epoch)
        standing.update(device(10.0 * epoch + setup_s, setup=setup_s), epoch)
    assert standing.seconds_left() == pytest.approx(8 * 10.0)


def test_a_paused_run_says_so():
    standing = Standing()
    standing.update(events.StageStarted(stage="inversion"), 1)
    for action in ("pause", "pause", "resume", "resume"):
        standing.update(events.ControlAcknowledged(id="1", action=action, accepted=True, message=""), 1)
        assert standing.activity == ("paused" if action == "pause" else "inversion")


def test_a_stage_stays_named_until_the_next_begins():
    standing = Standing()
    assert standing.activity == "starting"
    standing.update(events.StageStarted(stage="evaluation"), 1)
    standing.update(events.StageFinished(stage="evaluation", seconds=1.0), 1)
    assert standing.activity == "evaluation"


def test_what_was_left_of_a_resumed_epoch_is_not_taken_for_a_fast_one():
    clock, standing = HandClock(), Standing(first_line(epochs=10, warmup_epochs=0))
    standing.update(events.RunResumed(checkpoint="c", checkpoint_seq=3), 3)
    run_epochs(standing.update, clock, 3, 3, seconds=1.0)
    run_epochs(standing.update, clock, 4, 4, seconds=60.0)
    assert standing.seconds_left() == pytest.approx(6 * 60.0)


def first_line(**changes):
    """Of a run's events, as who resumes it reads it."""
    return json.loads(events.to_line(two_stages(**changes), seq=0, epoch=0, time_s=1_700_000_000.0))


def lines_of(clock):
    lines = []
    return lines, ProgressLines(lines.append, Standing(), clock)


def test_an_epoch_that_is_resumed_in_its_midst_ends():
    """Its first stage was over before the run stopped, and this process has not told it."""
    standing = Standing(first_line(epochs=10, warmup_epochs=0))
    standing.update(events.RunResumed(checkpoint="c", checkpoint_seq=3), 6)
    standing.update(events.StageStarted(stage="distillation"), 6)
    assert standing.num_finished == 5
    standing.update(events.StageFinished(stage="distillation", seconds=1.0), 6)
    assert standing.num_finished == 6


def test_lines_come_at_the_end_of_an_epoch_at_most_every_ten_seconds():
    lines, listener = lines_of(clock := HandClock())
    listener(two_stages(epochs=60, warmup_epochs=1), 0)
    run_epochs(listener, clock, 1, 30, seconds=1.0)
    assert [line.partition(",")[0] for line in lines] == ["epoch 10/60", "epoch 20/60", "epoch 30/60"]
    assert "inversion loss 2.500" in lines[0]
    assert "distillation loss 0.2500" in lines[0]
    assert "agreement 87.5%" in lines[0]
    assert lines[0].endswith("50 s left")


def test_in_a_long_epoch_its_steps_are_told():
    lines, listener = lines_of(clock := HandClock())
    started = two_stages(epochs=4, warmup_epochs=0)
    listener(started, 0)
    listener(events.StageStarted(stage="distillation"), 1)
    listener(events.DistillationStep(step=279, loss=1.0, lr=0.1, agreement=0.5), 1)
    clock.now_s += 60
    listener(events.Device(device="cpu", seconds={"total": 60.0}, utilisation=None, mem_mib=None, images_per_s=None), 1)
    assert lines == [f"epoch 1/4, distillation, step 280 of {started.distillation_steps}"]


def test_long_epochs_give_one_line_each():
    lines, listener = lines_of(clock := HandClock())
    listener(two_stages(epochs=4, warmup_epochs=1), 0)
    run_epochs(listener, clock, 1, 4, seconds=60.0)
    listener(events.RunFinished(status="done", message="done"), 4)
    assert [line.partition(",")[0] for line in lines] == [f"epoch {epoch}/4" for epoch in range(1, 5)]
    assert ["left" in line for line in lines] == [False, True, True, False]


def test_what_somebody_asks_of_the_run_is_told():
    lines, listener = lines_of(HandClock())
    listener(two_stages(epochs=4, warmup_epochs=1), 0)
    for action, accepted, message in (("pause", True, "paused"), ("dance", False, "unknown action `dance`")):
        listener(events.ControlAcknowledged(id="1", action=action, accepted=accepted, message=message), 1)
    assert lines == ["asked to pause: paused", "asked to dance: unknown action `dance`"]


def test_a_short_run_says_nothing_on_the_way():
    lines, listener = lines_of(clock := HandClock())
    listener(two_stages(epochs=4, warmup_epochs=1), 0)
    run_epochs(listener, clock, 1, 4, seconds=1.0)
    listener(events.RunFinished(status="done", message="done"), 4)
    assert lines == []


def test_the_epoch_in_which_a_run_is_stopped_is_not_told_as_done():
    lines, listener = lines_of(clock := HandClock())
    listener(two_stages(epochs=4, warmup_epochs=1), 0)
    run_epochs(listener, clock, 1, 1, seconds=60.0)
    listener(events.StageStarted(stage="inversion"), 2)
    clock.now_s += 60.0
    listener(device(120.0), 2)  # of the checkpoint with which it stops
    listener(events.CheckpointSaved(checkpoint="c"), 2)
    listener(events.RunFinished(status="stopped", message="stopped"), 2)
    assert [line.partition(",")[0] for line in lines] == ["epoch 1/4"]
    assert listener.standing.num_finished == 1


def test_a_resumed_run_knows_its_epochs_from_outside(capfd):
    clock = HandClock()
    with progress.run_display(started=first_line(epochs=8, warmup_epochs=2), clock=clock) as listener:
        listener(events.RunResumed(checkpoint="c", checkpoint_seq=3), 3)
        run_epochs(listener, clock, 4, 6, seconds=20.0)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert [line.partition(",")[0] for line in captured.err.splitlines()] == ["epoch 4/8", "epoch 5/8", "epoch 6/8"]


def test_what_is_compiled_is_told_at_once(capfd):
    with progress.run_display(clock=HandClock()) as listener:
        listener(two_stages(), 0)
        listener(events.StageStarted(stage="inversion"), 1)
        listener(events.CompilationStarted(what="the teacher"), 1)
    assert capfd.readouterr().err == "compiling the teacher\n"


def test_what_the_student_waits_for_is_told_now_and_then():
    lines, listener = lines_of(clock := HandClock())
    listener(two_stages(epochs=60, warmup_epochs=20), 0)
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
    with progress.run_display(clock=HandClock()) as listener:
        listener(events.Warning(message="beta has no effect", hint="leave it out"), 1)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == "warning: beta has no effect\nhint: leave it out\n"


def test_the_bar_shows_epochs_stage_losses_and_time_left():
    from rich.console import Console

    clock = HandClock()
    screen = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    bar = ProgressBar(screen, Standing())
    bar(two_stages(epochs=10, warmup_epochs=2), 0)
    run_epochs(bar, clock, 1, 4, seconds=2.0)
    with screen.capture() as captured:
        screen.print(bar)
    text = captured.get()
    for part in (
        "distillation",
        "4/10 epochs",
        "12 s left",
        "inversion loss 2.500",
        "distillation loss 0.2500",
        "agreement 87.5%",
    ):
        assert part in text


def test_the_bar_says_that_a_stop_is_heard():
    """Not past the bar, whose next picture would be drawn over it."""
    from rich.console import Console

    screen = Console(file=io.StringIO(), width=100)
    bar = ProgressBar(screen, Standing())
    bar.tell_of_stop()
    screen.print(bar)
    assert "saving and stopping at the next safe point (Ctrl-C ends it at once)" in screen.file.getvalue()


def test_the_bar_shows_what_is_compiled_until_it_is():
    standing = Standing()
    standing.update(events.StageStarted(stage="inversion"), 1)
    standing.update(events.CompilationStarted(what="the generator"), 1)
    assert standing.activity == "compiling the generator"
    standing.update(events.Warning(message="x"), 1)
    assert standing.activity == "compiling the generator"
    standing.update(events.CompilationFinished(what="the generator", seconds=1.0), 1)
    assert standing.activity == "inversion"


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
    clock = HandClock()
    with progress.run_display(clock=clock) as listener:
        assert isinstance(listener, shape)
        listener(two_stages(epochs=3, warmup_epochs=1), 1)
        run_epochs(listener, clock, 1, 3, seconds=20.0)
        listener(events.Warning(message="something"), 3)
    text = stream.getvalue()
    assert "warning:" in text
    assert ("\x1b[" in text) is (shape is ProgressBar)
    assert ("3/3 epochs" in text) is (shape is ProgressBar)
    assert ("epoch 2/3, " in text) is (shape is ProgressLines)


def test_a_teachers_training_is_told_now_and_then(capfd):
    clock = HandClock()
    with progress.training_display(clock) as listener:
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
        with progress.training_display(is_certain=is_certain) as listener:
            for epoch in range(num_epochs):
                listener(epoch + 1, 200, 1.5, 0.5)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    assert capfd.readouterr().err == told


def test_a_training_that_goes_on_says_so(capfd):
    with progress.training_display(HandClock()) as listener:
        listener(61, 200, 1.5, 0.5)
        listener(62, 200, 1.5, 0.5)
    assert capfd.readouterr().err == "teacher: the interrupted training goes on after epoch 60\n"


@pytest.mark.parametrize("is_certain", [True, False])
def test_no_teacher_is_said_to_be_trained_before_one_is(monkeypatch, is_certain):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    with progress.training_display(is_certain=is_certain) as listener:
        pass
    assert ("training the teacher" in terminal.getvalue()) is is_certain
    with progress.training_display(is_certain=is_certain) as listener:
        listener(1, 200, 1.5, 0.5)
    assert "training the teacher, loss 1.500" in terminal.getvalue()
