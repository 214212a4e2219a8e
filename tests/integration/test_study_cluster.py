"""A study whose stages are run by another program, as on a cluster: jobs that outlive who has submitted them."""

import json
import os
import signal
import time

import pytest
from study_helpers import processes_of, start, write_spec

SUBMIT = """#!/bin/sh
setsid sh "$1" < /dev/null > "$1.out" 2>&1 &
echo $!
"""


@pytest.fixture
def cluster(tmp_path):
    """Options of Snakemake for a batch system that starts each job at once and says its number."""
    submit = tmp_path / "submit"
    submit.write_text(SUBMIT)
    submit.chmod(0o755)
    options = ("--executor", "cluster-generic", "--cluster-generic-submit-cmd", submit, "--jobs", 2)
    return *options, "--seconds-between-status-checks", 1, "--latency-wait", 1


def test_jobs_of_a_killed_study_go_on_and_count_and_one_that_fails_shows_its_log(tmp_path, corpus, cluster):
    spec = write_spec(
        tmp_path,
        data={"name": "text", "source-lang": "qaa", "target-lang": "qab", "vocab-size": 120, "raw": str(corpus)},
        **{"teacher": None, "decode": None, "budget": {"student": 60}},
        common={"max-tokens": 400, "save-interval-updates": 20, "keep-interval-updates": 1},
        factors={"method": ["ce"], "encoder-attention-heads": [2, 3]},  # 16 is not divisible by 3
    )
    work = tmp_path / "work"
    words = ("run", spec, "--out", work, "--cpu", *cluster)
    process, deadline = start(*words), time.monotonic() + 900
    while not list(work.glob("stages/student-*/checkpoints/checkpoint_*_20.pt")):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()[1][-2000:]
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert any("fairseq_kd.study.stage student-" in line for line in processes_of(work))

    process = start(*words)
    _, err = process.communicate(timeout=900)
    assert process.returncode == 1, err[-3000:]
    assert "which 1 of 2 cells need: encoder-attention-heads=3" in err and "cannot be divided among" in err
    good, bad = json.loads((work / "results.json").read_text())["cells"]
    assert (good["state"], bad["state"]) == ("done", "failed")
    folder = work / "cells" / good["name"] / "2-student"
    assert (folder / "log.txt").read_text().count(" fairseq-train ") == 1  # it was trained once,
    assert "Loaded checkpoint" not in (folder / "train.log").read_text()  # and without a break
