"""Files, extends, overlays: which value wins, who is named for it, and every way to break a file."""

from pathlib import Path

import pytest

from stages.config import from_file, load
from stages.errors import ConfigError, FileError
from stages.planning.preset_check import check


def test_a_file_is_a_preset(whole):
    config = load([whole])
    assert (config.run.epochs, config.teacher.model, config.student.model) == (30, "wrn16_1", "resnet20")
    assert config.distillation.temperature == 20


def test_no_preset_is_the_default_one():
    assert load([]) == load(["digits"])


def test_a_path_starts_at_the_current_folder(whole, monkeypatch):
    monkeypatch.chdir(Path(whole).parent)
    assert load(["whole.toml"]) == load([whole])


def test_later_presets_go_over_earlier_ones(whole, write):
    first = write("first.toml", "[run]\nepochs = 50\nseed = 1")
    second = write("second.toml", "[run]\nepochs = 60")
    config = load([whole, first, second])
    assert (config.run.epochs, config.run.seed, config.run.warmup_epochs) == (60, 1, 5)
    assert load([whole, second, first]).run.epochs == 50


def test_set_goes_over_all_presets_and_the_last_one_wins(whole, write):
    late = write("late.toml", "[run]\nepochs = 50")
    assert load([whole, late], ["run.epochs=70", "run.epochs=80"]).run.epochs == 80


def test_a_list_is_replaced_and_not_joined(whole, write):
    late = write("late.toml", 'run.stages = ["distillation"]')
    assert load([whole, late]).run.stages == ("distillation",)


def test_extends_a_shipped_preset(write):
    mine = write("mine.toml", 'extends = "cifar100-wrn"\n[run]\nepochs = 50')
    config = load([mine])
    assert (config.run.epochs, config.teacher.model, config.task.num_classes) == (50, "wrn40_2", 100)


def test_extends_a_file_beside_it(whole, write):
    below = write("sub/below.toml", 'extends = "../whole.toml"\n[run]\nseed = 1\nepochs = 40')
    above = write("sub/above.toml", 'extends = "below.toml"\n[run]\nepochs = 50')
    config = load([above])
    assert (config.run.epochs, config.run.seed, config.run.warmup_epochs) == (50, 1, 5)
    assert load([below]).run.epochs == 40


def test_an_overlay_over_two_presets_that_share_one(whole, write):
    left = write("left.toml", 'extends = "whole.toml"\n[run]\nepochs = 40')
    right = write("right.toml", 'extends = "whole.toml"\n[run]\nseed = 3')
    config = load([left, right])
    assert (config.run.epochs, config.run.seed) == (30, 3)  # whole.toml is above left.toml


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_circle_of_extends_is_told_as_it_goes(write, problem_of, length):
    for index in range(length):
        write(f"p{index}.toml", f'extends = "p{(index + 1) % length}.toml"')
    start = write("start.toml", 'extends = "p0.toml"')
    message = problem_of(presets=[start]).message
    assert "circle" in message
    assert message.count("p0.toml") == 2
    assert message.endswith("p0.toml")


def test_an_overlay_may_extend_an_overlay(whole, write):
    write("below.toml", "overlay = true\n[run]\nseed = 4\nepochs = 40")
    above = write("above.toml", 'extends = "below.toml"\noverlay = true\n[run]\nepochs = 50')
    config = load([whole, above])
    assert (config.run.seed, config.run.epochs) == (4, 50)


def test_overlays_alone_are_no_run(write, problems_of):
    overlay = write("mine.toml", "overlay = true\n[run]\nepochs = 50")
    problems = problems_of("run.epoch=3", presets=[overlay, "fast5"])
    assert "only overlays" in problems[0].message
    assert "fast5" in problems[0].message
    assert f"--preset digits --preset {overlay}" in str(problems[0].hint)
    assert "run.epoch" in problems[1].message


def test_a_preset_over_an_overlay_is_whole(write):
    mine = write("mine.toml", 'extends = "cifar10"\n[teacher]\nmodel = "wrn16_2"\n[student]\nmodel = "wrn16_1"')
    assert load([mine]).task.num_classes == 10


def test_check_takes_a_preset_or_an_overlay(whole, write):
    assert check(whole)[0] == load([whole])
    overlay = write("mine.toml", "overlay = true\n[run]\nepochs = 50")
    assert check(overlay)[0] == load(["digits", overlay])
    broken = write("broken.toml", "overlay = true\n[run]\nepoch = 50")
    with pytest.raises(ConfigError, match=r"run\.epoch"):
        check(broken)


def test_check_tells_of_a_teacher_that_nothing_names_but_not_of_an_overlay(whole, write):
    text = '[teacher]\nmodel = "wrn16_1"\n'
    (_, (warning,)) = check(write("mine.toml", f'extends = "{whole}"\n{text}'))
    assert warning.startswith('`teacher.weights` is "auto", but nothing says which data the teacher learned (`--set')
    assert check(write("known.toml", f'extends = "{whole}"\n{text}trained_on = "digits"'))[1] == ()
    assert check(write("over.toml", f"overlay = true\n{text}"))[1] == ()


def test_check_tells_what_has_no_effect_but_not_of_an_overlay(write):
    text = '[distillation]\nsampling = "uniform"\nbeta = 0.9'
    (_, (warning,)) = check(write("mine.toml", f'extends = "digits"\n{text}'))
    assert "`distillation.beta` is 0.9" in warning
    assert check(write("over.toml", f"overlay = true\n{text}"))[1] == ()


def test_unknown_preset(problem_of):
    problem = problem_of(presets=["cifar100-wm"])
    assert problem.message == "unknown preset `cifar100-wm`"
    assert problem.hint == "did you mean `cifar100-wrn`?"


def test_a_file_of_that_name_is_nearer_than_any_preset(tmp_path, problem_of, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digit.toml").write_text('extends = "digits"')
    assert problem_of(presets=["digit"]).hint == "did you mean `digit.toml`?"
    assert problem_of(presets=["digit\0"]).hint == "did you mean `digits`?"  # no name of a file


def test_unknown_preset_that_resembles_none(problem_of):
    assert "presets ls" in str(problem_of(presets=["zzz"]).hint)


def test_unknown_preset_in_extends(write, problem_of):
    mine = write("mine.toml", 'extends = "digitz"')
    problem = problem_of(presets=[mine])
    assert "unknown preset `digitz`" in problem.message
    assert mine in problem.message
    assert problem.hint == "did you mean `digits`?"


def test_unknown_presets_are_told_together_with_bad_overrides(problems_of):
    messages = [problem.message for problem in problems_of("run.epoch=3", presets=["digitz", "fast6"])]
    assert messages == [
        "unknown preset `digitz`",
        "unknown preset `fast6`",
        "unknown key `run.epoch` in --set",
    ]


def test_missing_file(tmp_path):
    with pytest.raises(FileError, match=r"mine\.toml.*No such file") as caught:
        load([str(tmp_path / "mine.toml")])
    assert caught.value.hint


def test_missing_file_in_extends_names_the_file_that_asks_for_it(write):
    mine = write("mine.toml", 'extends = "gone.toml"')
    with pytest.raises(FileError, match=r"gone\.toml \(`extends` of .*mine\.toml\)"):
        load([mine])


def test_folder_in_place_of_a_file(tmp_path):
    (tmp_path / "mine.toml").mkdir()
    with pytest.raises(FileError, match="Is a directory"):
        load([str(tmp_path / "mine.toml")])


def test_a_link_to_itself(tmp_path):
    link = tmp_path / "mine.toml"
    link.symlink_to(link)
    with pytest.raises(FileError, match="symbolic links"):
        load([str(link)])


def test_a_name_no_file_can_have(write):
    mine = write("mine.toml", 'extends = "a\\u0000.toml"')
    with pytest.raises(FileError, match="null"):
        load([mine])


@pytest.mark.parametrize(
    "text",
    ["[run]\nepochs 3", "[run]\nepochs = 3\nepochs = 4", "[run", "run = {", "a = " + "9" * 5_000, "a = " + "[" * 5_000],
    ids=["no equals", "twice", "open header", "open table", "endless number", "endless nesting"],
)
def test_text_that_is_not_toml(write, problem_of, text):
    mine = write("mine.toml", text)
    problem = problem_of(presets=[mine])
    assert problem.message.startswith(f"{mine} is not valid TOML: ")


def test_a_syntax_error_has_its_line(write, problem_of):
    assert "line 3" in problem_of(presets=[write("mine.toml", "[run]\nseed = 1\nepochs 3\n")]).message


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("model = resnet20", "text has quotes"),
        ("horizontal_flip = False", "no `false`"),
        ("mean = (0.5)", "a list brackets"),
        ('model: "resnet20"', 'are written `model = "vgg11"`'),
        ("epochs = 3 4", "correct the file there"),
        ("lr = .1", "a digit before its point"),
        ("x = 1 a\x85b", "correct the file there"),
    ],
)
def test_the_line_that_is_wrong_is_shown_with_how_it_is_written(write, problem_of, line, hint):
    mine = write("mine.toml", f"[run]\n  {line}\nseed = 1\n")
    problem = problem_of(presets=[mine])
    assert problem.message.endswith(f": {line}")
    assert "(at line 2, column " in problem.message
    assert hint in problem.hint


def test_of_a_wrong_line_without_end_some_is_shown(write, problem_of):
    problem = problem_of(presets=[write("mine.toml", "{" + "a" * 100_000)])
    assert 100 < len(problem.message) < 300
    assert problem.message.endswith("aaa...")


def test_bytes_that_are_not_text(tmp_path, problem_of):
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\x00\xff")
    assert "not valid TOML" in problem_of(presets=[str(path)]).message


def test_broken_files_are_told_together(write, problems_of):
    first, second = write("a.toml", "[run"), write("b.toml", "x")
    assert [problem.message.split()[0] for problem in problems_of(presets=[first, second])] == [first, second]


def test_extends_several_later_over_earlier(whole, write):
    write("faster.toml", "overlay = true\n[run]\nepochs = 40\nseed = 5")
    write("again.toml", "overlay = true\n[run]\nseed = 6")
    mine = write("mine.toml", 'extends = ["whole.toml", "faster.toml", "again.toml"]\n[run]\nlog_every = 3')
    config = load([mine])
    assert (config.run.epochs, config.run.seed, config.run.log_every) == (40, 6, 3)
    assert config.settings.place_of("run.epochs").endswith("faster.toml")


def test_extending_nothing_is_no_extension(whole, write):
    assert load([whole, write("mine.toml", "extends = []\n[run]\nseed = 9")]).run.seed == 9


@pytest.mark.parametrize(
    "line", ["extends = 3", "extends = [3]", "overlay = 1", 'overlay = "yes"', "resolved = 1", "summary = true"]
)
def test_header_keys_have_types(write, problem_of, line):
    mine = write("mine.toml", line)
    message = problem_of(presets=[mine]).message
    assert f"`{line.split()[0]}` in {mine} must be" in message


def test_header_keys_are_no_settings(problem_of):
    assert "unknown key `extends`" in problem_of("extends=digits").message


def test_from_file_takes_any_name(write):
    text = Path(write("whole.toml", load(["digits"]).to_toml())).read_text()
    assert from_file(Path(write("config.txt", text))) == load(["digits"])


def test_from_file_that_is_missing_or_broken(tmp_path):
    with pytest.raises(FileError):
        from_file(tmp_path / "config.toml")
    (tmp_path / "config.toml").write_text("[run")
    with pytest.raises(ConfigError, match="not valid TOML"):
        from_file(tmp_path / "config.toml")


def test_a_file_that_begins_with_a_mark_of_its_encoding_is_read(write, whole):
    assert load([whole, write("marked.toml", "\ufeffoverlay = true\n[run]\nseed = 3\n")]).run.seed == 3
