"""`--go-on`: one command for a job that is stopped and started again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ssdkd_cli.main import main
from stages import trainer
from stages.errors import ConfigError
from stages.files.file_digest import sha256_of
from stages.resumption import refuse_other_settings
from stages.run import StopRequested
from stages.run_directory import RunDirectory


@pytest.fixture
def job(make_config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """The same command each time; its exit code and its document. `stops_in` is a seed and an epoch."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(make_config().to_toml(), encoding="utf-8")
    execute = trainer.execute

    def run(*more: str, stops_in: tuple[int, int] | None = None) -> tuple[int, dict]:
        def stopping(planned, listeners, **how):
            def stop(event, epoch) -> None:
                if event.kind == "distillation_step" and stops_in == (planned.config.run.seed, epoch):
                    raise StopRequested

            return execute(planned, [*listeners, stop], **how)

        monkeypatch.setattr(trainer, "execute", stopping)
        capfd.readouterr()
        code = main(["run", "--preset", "tiny.toml", "--out", "out", "--go-on", "--json", *more])
        out = capfd.readouterr().out
        return int(code), json.loads(out) if out else {}

    return run


def test_a_job_starts_goes_on_and_is_summed_up(job) -> None:
    assert job(stops_in=(0, 3))[0] == 75
    code, document = job()
    assert (code, document["status"]) == (0, "done")
    num_events = len(Path("out/events.jsonl").read_text().splitlines())
    assert job() == (0, document)
    assert len(Path("out/events.jsonl").read_text().splitlines()) == num_events, "there was nothing left to do"


def test_several_seeds_go_on_where_they_were(job) -> None:
    code, document = job("--seeds", "0,1,2", stops_in=(1, 3))
    assert (code, [run["status"] for run in document["runs"]]) == (75, ["done", "stopped"])
    first = Path("out/seed-0/events.jsonl").read_text()
    code, document = job("--seeds", "0,1,2")
    assert (code, [run["status"] for run in document["runs"]]) == (0, ["done"] * 3)
    assert Path("out/seed-0/events.jsonl").read_text() == first
    assert RunDirectory(Path("out/seed-1")).events.last("run_resumed") is not None


def test_another_run_is_not_gone_on_with(job, make_config, capfd: pytest.CaptureFixture[str]) -> None:
    assert job()[0] == 0
    before = Path("out/events.jsonl").read_text()
    assert job("--set", "inversion.gamma=1.5") == (2, {})
    assert Path("out/events.jsonl").read_text() == before
    run = RunDirectory(Path("out"))
    config = make_config("run.log_every=3", "run.threads=2")  # what may change while it goes on
    refuse_other_settings(run, config, "run")
    with pytest.raises(ConfigError, match=r"holds another run .*: `inversion\.gamma` is 1\.5 and was 2\.0, it is of"):
        refuse_other_settings(run, make_config("inversion.gamma=1.5"), "invert")
    manifest = run.manifest()
    run.manifest_file.write_text(json.dumps(manifest | {"teacher_sha256": "0" * 64}))
    with pytest.raises(ConfigError, match="the teacher's file is another one"):
        refuse_other_settings(run, config, "run")
    buffer = run.buffer_file
    run.manifest_file.write_text(json.dumps(manifest | {"buffer_sha256": sha256_of(buffer)}))
    refuse_other_settings(run, config, "run", buffer=buffer)
    with pytest.raises(ConfigError, match="it began with another buffer"):
        refuse_other_settings(run, config, "run", buffer=run.student_file)
    run.manifest_file.write_text("{}")
    refuse_other_settings(run, config, "run")  # told when it is gone on with


def test_values_that_followed_from_the_machine_or_the_student_are_no_others(make_config, job) -> None:
    Path("tiny.toml").write_text(make_config("distillation.lr=auto", "student.start=auto").tables_as_toml())
    assert job(stops_in=(0, 3))[0] == 75
    assert '"distillation.lr"' in Path("out/manifest.json").read_text()
    assert job()[1]["status"] == "done"
