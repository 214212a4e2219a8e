"""A real search with tiny models, run by Snakemake."""

import json
import os
import shutil
import signal
import time

import pytest
from conftest import ROOT
from process_helpers import Process
from search_helpers import write_search
from test_study_run import ENVIRONMENT, processes_of

OUTPUTS = ("search.json", "search.md", "chosen.yaml")
TIMEOUT = 1500  # on a busy machine


def start(spec, work):
    words = ["-m", "fairseq_kd.cli.main", "search", spec, "--out", work, "--cpu", "--jobs", "1"]
    return Process(*words, cwd=ROOT, env=ENVIRONMENT)


def finish(process):
    out, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, out[-2000:] + err[-2000:]
    return out


@pytest.mark.skipif("FAIRSEQ_KD_SLOW" not in os.environ, reason="takes four minutes; set FAIRSEQ_KD_SLOW=1 to run it")
def test_a_search_that_is_killed_ends_as_one_that_was_not_and_trains_nothing_twice(tmp_path, corpus):
    spec = write_search(
        tmp_path,
        {
            "algorithm": "greedy",
            "teacher-checkpoints": 2,
            "parameters": {"kd-divergence": ["kl", "mse"], "kd-weight": [0.5, 0.9]},
        },
        data={"name": "text", "source-lang": "qaa", "target-lang": "qab", "vocab-size": 120, "raw": str(corpus)},
        common={"max-tokens": 400, "save-interval-updates": 1, "keep-interval-updates": 1},
        budget={"teacher": 4, "student": 12},
    )
    work = tmp_path / "work"
    out = finish(start(spec, work))
    expected = {name: (work / name).read_bytes() for name in OUTPUTS}
    found = json.loads(expected["search.json"])
    assert (work / "search.md").read_text() in out
    assert [[run["configuration"]["kd-weight"] for run in step["runs"]] for step in found["steps"]] == [
        [0.5, 0.5],
        [0.5, 0.9],
    ]
    assert all(len(run["validation"]["scores"]) == 1 for step in found["steps"] for run in step["runs"])
    students = sorted(path.name for path in work.glob("stages/student-*"))
    assert len(students) == 3  # kl and mse at 0.5, and one of them at 0.9

    (last,) = [path for path in work.glob("stages/student-*") if "--kd-weight 0.9" in (path / "log.txt").read_text()]
    others = {path: path.stat().st_mtime_ns for path in work.glob("stages/*/done.json") if path.parent != last}
    for path in [last, *(work / name for name in OUTPUTS)]:  # as if the first step were done, and no more
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    process, deadline = start(spec, work), time.monotonic() + TIMEOUT
    while not list(last.glob("checkpoints/checkpoint_*.pt")):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()[1][-2000:]
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    while left := processes_of(work):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
    assert not (last / "done.json").exists()
    finish(start(spec, work))
    assert {name: (work / name).read_bytes() for name in OUTPUTS} == expected
    again = [path for path, changed in others.items() if path.stat().st_mtime_ns != changed]
    assert not [path for path in again if path.parent.name.split("-")[0] in ("prepare", "teacher", "student", "cache")]
