"""`ssdkd presets`: list, show, explain, copy, check."""

from __future__ import annotations

import json
import re
import tomllib

import pytest

import presets
from stages.config_table import Table
from stages.registry import Spec


def test_one_whole_name_a_line_and_overlays_marked(call):
    result = call("presets", "ls")
    assert (result.code, result.err) == (0, "")
    listed = dict(line.partition("\t")[::2] for line in result.out.splitlines())
    assert list(listed) == list(presets.names())
    assert listed["digits"] == ""
    assert listed["fast5"] == "(overlay)"


def test_the_list_as_json(call):
    listed = {row["name"]: row for row in json.loads(call("presets", "ls", "--json").out)}
    assert listed["digits"] == {"name": "digits", "overlay": False, "summary": presets.summary("digits")}
    assert listed["fast5"]["overlay"] is True


def test_a_shown_preset_runs_as_it_is(call, place):
    shown = call("presets", "show", "cifar100-wrn", "fast5", "--set", "run.seed=3")
    assert shown.code == 0, shown.err
    assert tomllib.loads(shown.out)["run"]["seed"] == 3
    (place / "shown.toml").write_text(shown.out, encoding="utf-8")
    assert call("presets", "show", "shown.toml").out == shown.out


def test_a_preset_as_json_is_the_toml(call):
    document = json.loads(call("presets", "show", "digits", "--json").out)
    assert document == tomllib.loads(call("presets", "show", "digits").out)


def test_an_overlay_by_itself_is_its_own_text(call):
    result = call("presets", "show", "fast5")
    assert result.code == 0
    assert result.out == presets.read_text("fast5")
    assert json.loads(call("presets", "show", "fast5", "--json").out)["overlay"] is True


def test_an_overlay_in_a_file_is_its_own_text_too(call, place):
    call("presets", "cp", "plus", "mine.toml")
    result = call("presets", "show", "mine.toml")
    assert (result.code, result.out) == (0, presets.read_text("plus"))
    both = call("presets", "show", "mine.toml", "fast5")
    assert both.code == 2
    assert "for example `ssdkd presets show digits mine.toml`" in both.err


@pytest.mark.parametrize("command", ["show", "check"])
def test_an_unknown_preset(call, command):
    result = call("presets", command, "digit")
    assert (result.code, result.out) == (2, "")
    assert "did you mean `digits`?" in result.err


def test_a_copy_is_the_shipped_text_and_overwrites_nothing(call, place):
    first = call("presets", "cp", "digits", "mine.toml")
    assert (first.code, first.out) == (0, "")
    assert (place / "mine.toml").read_text(encoding="utf-8") == presets.read_text("digits")
    (place / "mine.toml").write_text("# edited", encoding="utf-8")
    second = call("presets", "cp", "cifar100-wrn", "mine.toml")
    assert second.code == 2
    assert "mine.toml" in second.err
    assert (place / "mine.toml").read_text(encoding="utf-8") == "# edited"


@pytest.mark.parametrize(
    ("source", "target", "code", "names"),
    [
        ("digit", "mine.toml", 2, "did you mean `digits`?"),
        ("digits", "mine.txt", 2, "mine.txt"),
        ("digits", "nowhere/mine.toml", 3, "nowhere/mine.toml"),
        ("nowhere.toml", "mine.toml", 3, "nowhere.toml"),
    ],
)
def test_what_cannot_be_copied(call, place, source, target, code, names):
    result = call("presets", "cp", source, target)
    assert result.code == code
    assert names in result.err
    assert list(place.iterdir()) == []


def test_a_copied_preset_checks_out(call):
    call("presets", "cp", "digits", "mine.toml")
    assert call("presets", "check", "mine.toml") == (0, "mine.toml: ok\n", "")


def test_a_copied_overlay_says_what_it_lacks(call, place):
    assert "`ssdkd run --preset digits --preset mine.toml`" in call("presets", "cp", "plus", "mine.toml").err
    told = call("presets", "cp", "cifar10", "theirs.toml").err
    for part in ("`teacher.model`", "`student.model`", "`overlay`", "`ssdkd run --preset theirs.toml`"):
        assert part in told
    text = (place / "theirs.toml").read_text(encoding="utf-8").replace("overlay = true\n", "")
    text = text.replace("[teacher]\n", '[teacher]\nmodel = "resnet32"\n') + '[student]\nmodel = "resnet20"\n'
    (place / "theirs.toml").write_text(text, encoding="utf-8")
    assert call("presets", "check", "theirs.toml").out == "theirs.toml: ok\n"
    assert call("presets", "show", "theirs.toml").code == 0


def test_check_reports_every_problem_of_a_file(call, place):
    text = 'extends = "digits"\n[run]\nepoch = 3\nseed = -1\n[distillation]\nlr = "fast"\n[studnt]\nmodel = "x"\n'
    (place / "mine.toml").write_text(text, encoding="utf-8")
    result = call("presets", "check", "mine.toml")
    assert (result.code, result.out) == (2, "")
    for key in ("run.epoch", "run.seed", "distillation.lr", "studnt"):
        assert key in result.err
    assert len(re.findall(r"^error: ", result.err, re.M)) == 4
    assert "mine.toml" in result.err


def test_check_tells_of_missing_files_with_all_else(call, place):
    (place / "net.py").write_text(
        "class Network:\n    def build(self): ...\ndef built(num_classes): ...\n", encoding="utf-8"
    )
    text = (
        'extends = "digits"\n[run]\nepoch = 3\n'
        '[teacher]\nmodel = "gone.py:build"\nweights = "own.pth"\n[student]\nmodel = "net.py:build"\n'
    )
    (place / "mine.toml").write_text(text, encoding="utf-8")
    result = call("presets", "check", "mine.toml")
    assert (result.code, result.out) == (2, "")
    lines = result.err.splitlines()
    assert lines[0].startswith("error: unknown key `run.epoch` in mine.toml")
    start = f"relative paths start at {place}"
    assert lines[2:] == [
        *("error: `teacher.model` in mine.toml: no such file: `gone.py`", f"hint: {start}"),
        "error: `student.model` in mine.toml: `net.py` has no function `build`",
        "hint: write `net.py:built`",
        "error: the teacher's file own.pth does not exist (`teacher.weights`) in mine.toml",
        f"hint: name a .safetensors, .pt, .pth or .th file with the teacher's state dict; {start}",
    ]
    (place / "own.pth").touch()
    (place / "gone.py").write_text("build = None\n", encoding="utf-8")
    (place / "net.py").write_text("from somewhere import build\n", encoding="utf-8")
    (place / "mine.toml").write_text(text.replace("epoch =", "epochs = 21 #"), encoding="utf-8")
    assert call("presets", "check", "mine.toml") == (0, "mine.toml: ok\n", "")


def test_check_looks_for_the_files_of_an_overlay_and_for_names_that_no_file_can_have(call, place):
    text = 'overlay = true\n[teacher]\nweights = "~nobody-of-that-name/x.pth"\n[student]\nmodel = "gone.py"\n'
    (place / "over.toml").write_text(text, encoding="utf-8")
    result = call("presets", "check", "over.toml")
    assert result.code == 2
    assert len(re.findall(r"^error: ", result.err, re.M)) == 2
    assert "gone.py" in result.err
    assert "no such user" in result.err


def test_check_refuses_what_a_run_would_refuse(call, place):
    (place / "mine.toml").write_text('extends = "digits"\n[run]\nwarmup_epochs = 0\n', encoding="utf-8")
    result = call("presets", "check", "mine.toml")
    assert (result.code, result.out) == (2, "")
    assert "at the end of warm-up the hold-out is made" in result.err


def test_check_warns_of_settings_without_effect(call, place):
    text = 'extends = "digits"\n[distillation]\nsampling = "uniform"\nbeta = 0.3\n'
    (place / "mine.toml").write_text(text, encoding="utf-8")
    result = call("presets", "check", "mine.toml")
    assert (result.code, result.out) == (0, "mine.toml: ok\n")
    assert result.err.startswith("warning: ")
    assert "beta" in result.err


@pytest.mark.parametrize("name", presets.names())
def test_every_shipped_preset_checks_out(call, name):
    assert call("presets", "check", name) == (0, f"{name}: ok\n", "")


def test_a_copied_overlay_is_run_on_top_of_a_preset(call, place):
    copied = call("presets", "cp", "plus", "mine.toml")
    command = re.search(r"`ssdkd (run [^`]*)`", copied.err)[1]
    assert call(*command.split(), "--dry-run", "--json").code == 0


def test_a_key_is_explained(call):
    result = call("presets", "explain", "inversion.steps")
    assert (result.code, result.err) == (0, "")
    first, takes, *text = result.out.splitlines()
    assert (first, takes) == ("inversion.steps = 5", "  takes a whole number above 0")
    assert text[0].startswith("  Generator updates per call, T_g.")
    assert max(map(len, text)) <= 100


def test_a_table_is_explained_key_by_key(call):
    told = json.loads(call("presets", "explain", "evaluation", "run.seed", "--json").out)
    assert [doc["key"] for doc in told][-1] == "run.seed"
    assert {doc["key"].partition(".")[0] for doc in told[:-1]} == {"evaluation"}
    assert next(doc for doc in told if doc["key"] == "evaluation.data")["default"] == "none"
    assert all(set(doc) == {"key", "takes", "default", "text"} for doc in told)


def test_all_keys_in_short(call):
    shown = tomllib.loads(call("presets", "show", "digits").out)
    lines = call("presets", "explain").out.splitlines()
    listed = {line.split("\t")[0] for line in lines}
    assert {f"{table}.{key}" for table, keys in shown.items() for key in keys} <= listed
    assert 'student.start\t"random"\tIts first weights' in "\n".join(lines)


def test_a_methods_options_are_explained_with_whose_they_are(call, monkeypatch):
    class Options(Table):
        rate: float = 0.5
        """How fast. And more of it."""

    theirs, another = (Spec(name, "a:b", "", schema=Options) for name in ("theirs", "another"))
    methods = (theirs, another, Spec("without", "a:b", ""))
    monkeypatch.setattr("stages.settings.key_docs.all_specs", lambda group: methods if group == "methods" else ())
    told = json.loads(call("presets", "explain", "inversion.options.rate", "--json").out)
    assert [(doc["key"], doc["default"]) for doc in told] == [("inversion.options.rate", 0.5)] * 2
    assert [doc["text"].partition("\n\n")[0] for doc in told] == ["Of the method `theirs`.", "Of the method `another`."]
    told = json.loads(call("presets", "explain", "inversion.options", "--json").out)
    assert [doc["key"] for doc in told] == ["inversion.options", *["inversion.options.rate"] * 2]
    result = call("presets", "explain", "inversion.options.rat")
    assert (result.code, result.out) == (2, "")
    assert "no method that is installed has an option `inversion.options.rat`" in result.err


def test_a_key_that_there_is_not_is_told_with_the_nearest(call):
    result = call("presets", "explain", "inversion.step")
    assert (result.code, result.out) == (2, "")
    assert "unknown key `inversion.step`" in result.err
    assert "did you mean `inversion.steps`?" in result.err
