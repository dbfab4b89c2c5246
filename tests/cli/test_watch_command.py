"""`ssdkd watch` off a terminal: the document, the page, and the server that shows the dashboard in a browser."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable
from functools import partial
from types import ModuleType, SimpleNamespace

import pytest
from rich.cells import cell_len
from scripted_run import append, evaluation, lines_of, raw_line, run_of_lines, samples, whole_run

from ssdkd_cli import console
from ssdkd_cli.commands import viewing
from stages import events
from stages.run_directory import RunDirectory


@pytest.fixture(autouse=True)
def _off_a_terminal(monkeypatch) -> None:
    """Wherever the tests were started."""
    monkeypatch.setattr(console, "has_screen", lambda: False)


@pytest.fixture
def run(place) -> RunDirectory:
    told = [*whole_run(4), (evaluation(0.9, 0.8), 4), (samples(4), 4)]
    return run_of_lines(place / "runs" / "a-run", lines_of(told))


def test_once_json_is_one_document_with_the_status(call, run):
    with run.lock.held():
        result = call("watch", str(run.path), "--once", "--json")
    assert (result.code, result.err) == (0, "")
    document = json.loads(result.out)
    assert document["status"] == "running"
    assert document["run"] == str(run.path)
    assert (document["progress"]["epoch"], document["progress"]["share"]) == (4, 1.0)
    assert document["latest"]["distillation/loss"] == pytest.approx(3.25)
    assert document["latest_epoch"]["distillation/loss"] == 4.0
    assert document["real"]["student"]["top1"] == 0.9
    assert document["synthetic"] == {"agreement": 0.8, "agreement_by_chance": 0.125, "ece": None}
    assert document["samples"]["picture"] == "samples/epoch-000004.png"
    assert document["device"]["labels"]["mem_mib"] == "resident memory (RSS)"
    assert document["problems"] == []


def test_a_long_history_is_read_to_its_end(call, place, monkeypatch):
    monkeypatch.setattr("ssdkd_cli.watching.preview.MIN_BYTES", 1000)
    monkeypatch.setattr("ssdkd_cli.watching.feed._CHUNK_BYTES", 1000)
    told = whole_run(40)
    long = run_of_lines(place / "runs" / "long", lines_of(told))
    document = json.loads(call("watch", str(long.path), "--json").out)
    assert (document["num_events"], document["history_read"]) == (len(told), 1.0)


@pytest.mark.parametrize("options", [["--json"], ["--once", "--json"], ["--json", "--read-only"]])
def test_json_alone_is_a_snapshot_too(call, run, options):
    assert json.loads(call("watch", str(run.path), *options).out)["status"] == "dead"


def test_of_a_dead_run_nothing_is_at_work_and_no_time_is_left(call, place):
    told = [(event, epoch) for event, epoch in whole_run(4) if epoch < 4]
    cut = run_of_lines(place / "runs" / "cut", lines_of([*told, (events.StageStarted(stage="distillation"), 4)]))
    with cut.lock.held():
        alive = json.loads(call("watch", str(cut.path), "--json").out)["progress"]
    assert alive["left_s"] is not None
    assert any(stage["is_running"] for stage in alive["stages"])
    dead = json.loads(call("watch", str(cut.path), "--json").out)["progress"]
    assert dead["left_s"] is None
    assert not any(stage["is_running"] or stage["step"] is not None for stage in dead["stages"])
    assert dead["share"] == alive["share"]
    assert "time left" not in call("watch", str(cut.path), "--once").out


@pytest.mark.parametrize("options", [["--once"], [], ["--read-only"]])
def test_off_a_terminal_it_prints_text_and_never_starts_the_app(call, run, options, monkeypatch):
    monkeypatch.setitem(sys.modules, "ssdkd_cli.dashboard.app", None)  # importing it would fail
    result = call("watch", str(run.path), *options)
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("a-run: dead: its process is gone\n")
    assert "\x1b" not in result.out


def test_without_a_name_it_is_the_newest_run(call, run):
    assert json.loads(call("watch", "--json").out)["name"] == "a-run"
    assert json.loads(call("watch", "a-run", "--json").out)["name"] == "a-run"


def test_of_a_folder_of_runs_it_is_the_one_at_work(call, run, place):
    newer = run_of_lines(place / "runs" / "b-run", lines_of(whole_run(2)))
    newer.lock_file.write_text(json.dumps({"pid": 1, "since_s": 4e9}))
    assert json.loads(call("watch", "runs", "--json").out)["name"] == "b-run"
    with run.lock.held():
        assert json.loads(call("watch", "runs", "--json").out)["name"] == "a-run"


@pytest.mark.parametrize(
    ("arguments", "hint"), [([], "ssdkd run"), (["b-run"], "ssdkd runs ls"), (["nowhere/at/all"], "ssdkd runs ls")]
)
def test_a_run_that_is_not_there_is_refused(call, arguments, hint):
    result = call("watch", *arguments, "--once")
    assert (result.code, result.out) == (3, "")
    assert result.err.startswith("error: ")
    assert hint in result.err


def test_a_misspelt_run_gets_its_nearest(call, run):
    assert "did you mean `a-run`?" in call("watch", "a-rum", "--json").err


@pytest.mark.parametrize("status", ["done", "stopped", "failed", "diverged"])
def test_a_run_that_is_over_says_how_it_ended(call, run, status):
    line = raw_line(kind="run_finished", seq=900, status=status, message="because", summary={"status": status})
    append(run, [line])
    document = json.loads(call("watch", str(run.path), "--json").out)
    assert (document["status"], document["message"], document["summary"]) == (status, "because", {"status": status})
    assert call("watch", str(run.path), "--once").out.startswith(f"a-run: {status} (because)\n")


def test_why_a_run_failed_is_told_to_the_last_word(call, run):
    message, hint = "the device is out of memory: " + "word " * 30 + "last", "lower " + "語語 " * 40 + "or that"
    told = raw_line(kind="run_finished", seq=900, status="failed", message=message, hint=hint, summary={})
    append(run, [told])
    out = call("watch", str(run.path), "--once").out
    assert max(map(cell_len, out.splitlines())) <= 80
    assert all(" ".join(text.split()) in " ".join(out.split()) for text in (message, hint))
    document = json.loads(call("watch", str(run.path), "--json").out)
    assert (document["message"], document["hint"]) == (message, hint)
    with run.lock.held():  # it is being resumed: that is no failure any more
        document = json.loads(call("watch", str(run.path), "--json").out)
    assert (document["status"], document["message"]) == ("starting", "")


def test_a_run_before_its_first_word(call, place):
    run = run_of_lines(place / "runs" / "new", [])
    with run.lock.held():
        document = json.loads(call("watch", "new", "--json").out)
        assert call("watch", "new").out == "new: starting\n"
    assert document["status"] == "starting"
    assert document["progress"] is document["buffer"] is document["device"] is document["real"] is None


def test_what_is_wrong_with_the_files_is_told(call, run):
    append(run, ["rubbish\n", raw_line(kind="future", seq=901, schema=9)])
    out = call("watch", str(run.path), "--once").out
    assert "! 1 line of events.jsonl could not be read" in out
    assert "! events of kinds unknown to this ssdkd: future (1)" in out


def test_what_a_stage_measures_is_on_the_page_and_in_the_document(call, run):
    append(run, [raw_line(kind="measured", seq=900, epoch=4, stage="drift", values={"mean_norm": 0.25, "x": None})])
    out = call("watch", str(run.path), "--once").out
    assert re.search(r"^drift\n  mean norm +0.25 .*\n  x +not finite since epoch 4\n\nreal data", out, re.M)
    document = json.loads(call("watch", str(run.path), "--json").out)
    assert document["problems"] == []
    assert (document["latest"]["drift/mean_norm"], document["latest"]["drift/x"]) == (0.25, None)
    assert document["latest_epoch"]["drift/mean_norm"] == 4.0


@pytest.mark.parametrize(
    ("status", "is_stopping", "expected"),
    [
        ("running", False, ["goes on without this terminal", "ssdkd watch ", "ssdkd runs stop "]),
        ("paused", False, ["is paused and waits", "ssdkd runs resume ", "ssdkd watch ", "ssdkd runs stop "]),
        ("running", True, ["saves everything and stops", "ssdkd watch "]),
    ],
)
def test_who_leaves_is_told_what_the_run_does(run, monkeypatch, capfd, status, is_stopping, expected):
    monkeypatch.setattr(type(run), "status", lambda _self: status)
    monkeypatch.setattr(viewing, "_open_dashboard", lambda *_, **__: viewing._Closed(0, run, is_stopping))
    assert viewing.show(run) == 0
    first, *commands = capfd.readouterr().err.splitlines()
    assert expected[0] in first
    assert [line.strip().partition(f"{run.path} ")[0] for line in commands] == expected[1:]
    assert len({line.rindex("  ") for line in commands}) == 1, "in a column"


# -- in a browser ----------------------------------------------------------------------------------------------


def install_server(monkeypatch: pytest.MonkeyPatch, serve: Callable[..., None]) -> None:
    """As if textual-serve were installed: `serve` gets what its server is made of."""

    class Server:
        console = SimpleNamespace(quiet=False)

        def __init__(self, command: str, **options: object) -> None:
            self.serve = partial(serve, command, **options)

    module = ModuleType("textual_serve.server")
    module.Server = Server
    monkeypatch.setitem(sys.modules, "textual_serve", ModuleType("textual_serve"))
    monkeypatch.setitem(sys.modules, "textual_serve.server", module)


def test_a_browser_gets_a_viewer_of_its_own(call, run, monkeypatch):
    served = []
    install_server(monkeypatch, lambda command, **options: served.append((command, options)))
    result = call("watch", str(run.path), "--serve", "--port", "8123", "--read-only")
    assert (result.code, result.out) == (0, "")
    assert "http://localhost:8123" in result.err
    ((command, options),) = served
    assert shlex.split(command)[1:] == ["-P", "-m", "ssdkd_cli", "watch", "--read-only", "--", str(run.path)]
    assert options == {"host": "localhost", "port": 8123, "title": f"ssdkd {run.name}"}


def test_without_the_extra_serving_says_how_to_get_it(call, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "textual_serve", None)
    monkeypatch.setitem(sys.modules, "textual_serve.server", None)
    result = call("watch", str(run.path), "--serve")
    assert (result.code, result.out) == (4, "")
    assert "pip install textual-serve" in result.err


def test_a_taken_port_is_told(call, run, monkeypatch):
    def refuse(*_, **__):
        raise OSError(98, "Address already in use")

    install_server(monkeypatch, refuse)
    result = call("watch", str(run.path), "--serve")
    assert (result.code, result.out) == (4, "")
    assert "port 8000" in result.err
    assert "--port" in result.err


def test_serving_does_not_print(call, run):
    assert call("watch", str(run.path), "--serve", "--json").code == 2
