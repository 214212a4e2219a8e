"""Real studies with tiny models, run by Snakemake."""

import json
import os
import re
import shlex
import signal
import time

import pytest
import torch
from docs_helpers import blocks_run_by
from process_helpers import run_python
from study_helpers import ENVIRONMENT, processes_of, start, write_spec

from fairseq_kd.artifacts.records import read_record
from fairseq_kd.cli.main import main
from fairseq_kd.study.spec import shipped_specs


@pytest.mark.parametrize("name", shipped_specs())
def test_snakemakes_dry_run_of_every_shipped_spec(name, tmp_path):
    process = start("run", name, "--out", tmp_path / "work", "--dry-run")
    _, err = process.communicate(timeout=900)
    assert process.returncode == 0, err
    log = (tmp_path / "work" / "snakemake.log").read_text()
    plan = json.loads((tmp_path / "work" / "plan.json").read_text())
    assert "This was a dry-run" in log
    assert any(line.split() == ["total", str(len(plan["stages"]) + 1)] for line in log.splitlines())
    assert not (tmp_path / "work" / "results.json").exists()


def test_snakemake_takes_stages_of_other_versions_as_they_are(tmp_path, capfd):
    from fairseq_kd.artifacts.writing import write_json
    from fairseq_kd.study.check import open_plan

    spec, work = write_spec(tmp_path, factors={"method": ["ce"]}, teacher=None, decode=None), tmp_path / "work"
    plan = open_plan(str(spec), work)
    write_json(work / "plan.json", plan.as_dict())
    for number, (name, stage) in enumerate(plan.stages.items()):
        if stage.kind != "evaluate":  # under the names of version 0.1.0, the input newer than what was made from it
            done = work / "stages" / plan._keys[name].former / "done.json"
            write_json(done, {"stage": name, "seconds": 1.0, "fingerprint": "x", "command": "", "inputs": {}})
            os.utime(done, (2e9 - number, 2e9 - number))
    assert main(["study", "run", str(spec), "--out", str(work), "--cpu", "--old-stages", "reuse", "--dry-run"]) == 0
    shown = capfd.readouterr().out
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", shown, re.M))
    assert jobs == {"evaluate": "1", "study": "1", "total": "2"}, shown


def test_the_commands_of_the_page(tmp_path, monkeypatch, capsys):
    (block,) = blocks_run_by("test_the_commands_of_the_page")
    lines = [command.removeprefix("fairseq-kd ") for command in block.commands()]
    assert [line.split()[1] for line in lines] == ["plan", "run", "report"]
    monkeypatch.chdir(tmp_path)
    for line in lines:
        assert main(line.split() + (["--dry-run"] if "run" in line.split()[:2] else [])) == 0, line
    assert "- not tested yet: seq > word at noise 0 by bleu\n" in capsys.readouterr().out


@pytest.fixture
def data(corpus):
    """The section data of a spec about the small corpus of the tests."""
    return {"name": "text", "source-lang": "qaa", "target-lang": "qab", "vocab-size": 120, "raw": str(corpus)}


def test_calibration_measures_each_model_once_and_is_kept(tmp_path, data, capsys):
    factors = {"method": ["ce"], "seed": [1, 2]}
    spec = write_spec(tmp_path, data=data, teacher=None, decode=None, budget={"student": 3600}, factors=factors)
    words = ["study", "plan", str(spec), "--out", str(tmp_path / "work")]
    assert main([*words, "--calibrate"]) == 0
    shown = capsys.readouterr().out
    (rate,) = read_record(tmp_path / "work" / "calibration.json", "").values()
    (line,) = (line for line in shown.splitlines() if line.startswith("student "))
    assert line.split()[-1] == f"{2 * 3600 * rate / 3600:.2f}" and rate > 0
    assert main(words) == 0 and line in capsys.readouterr().out


def test_a_study_that_is_killed_continues_and_a_cell_that_fails_leaves_the_others(tmp_path, data):
    spec = write_spec(
        tmp_path,
        data=data,
        **{"teacher": None, "decode": None, "budget": {"student": 60}},
        common={"max-tokens": 400, "save-interval-updates": 20, "keep-interval-updates": 1},
        factors={"method": ["ce"], "encoder-attention-heads": [2, 3]},  # 16 is not divisible by 3
    )
    work = tmp_path / "work"
    words = ("run", spec, "--out", work, "--cpu", "--jobs", 1)
    process, deadline = start(*words), time.monotonic() + 900
    while not list(work.glob("stages/student-*/checkpoints/checkpoint_*_20.pt")):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()[1][-2000:]
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    while left := processes_of(work):  # Snakemake and its jobs end with the process that was killed
        assert time.monotonic() < deadline, left
        time.sleep(0.05)

    process = start(*words)
    _, err = process.communicate(timeout=900)
    assert process.returncode == 1, err[-3000:]
    assert "failed: student-" in err and "which 1 of 2 cells need: encoder-attention-heads=3" in err
    assert "cannot be divided among" in err  # the end of its log
    results = json.loads((work / "results.json").read_text())
    good, bad = results["cells"]
    assert (good["state"], bad["state"]) == ("done", "failed") and bad["results"] == {"test": None}
    assert json.loads((work / good["results"]["test"]).read_text())["sentences"] == 30

    folder = work / "cells" / good["name"] / "2-student"
    assert "Loaded checkpoint" in (folder / "train.log").read_text()  # it did not begin again
    command = shlex.split(json.loads((folder / "done.json").read_text())["command"])
    alone = [*command[1 : command.index("--save-dir")], "--save-dir", tmp_path / "alone"]
    result = run_python("-m", "fairseq_cli.train", *alone, env=ENVIRONMENT)
    assert result.returncode == 0, result.stderr[-2000:]
    models = [torch.load(path / "checkpoint_best.pt")["model"] for path in (folder / "checkpoints", tmp_path / "alone")]
    assert models[0].keys() == models[1].keys()
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])

    started = (folder / "done.json").stat().st_mtime_ns
    shown, _ = start("status", spec, "--out", work).communicate(timeout=900)
    assert "encoder-attention-heads=2  done" in shown and "encoder-attention-heads=3  failed" in shown
    assert (folder / "done.json").stat().st_mtime_ns == started
