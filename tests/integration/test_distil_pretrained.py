"""scripts/distil_pretrained.sh, run whole with small models of the shapes of OPUS-MT and NLLB."""

import os
import re
import shutil
import signal
import subprocess
import time

import pytest
import torch
from conftest import ROOT
from docs_helpers import blocks_run_by
from pretrained_helpers import short_lines
from process_helpers import run_script
from script_helpers import Forks

from fairseq_kd.corpus.sentencepiece_model import join_pieces

TINY = ["--parameters", "20k", "--vocab-size", "120", "--max-update", "40", "--cpu"]


@pytest.fixture
def clone(tmp_path, corpus):
    """A folder with the scripts, without .venv, and with short text in raw/."""
    shutil.copytree(ROOT / "scripts", tmp_path / "a clone" / "scripts")
    (tmp_path / "a clone" / "raw").mkdir()
    for name in ("train", "valid", "test"):
        for lang in ("qaa", "qab"):
            lines = short_lines(corpus, f"{name}.{lang}")
            (tmp_path / "a clone" / "raw" / f"{name}.{lang}").write_text("".join(f"{line}\n" for line in lines))
    return tmp_path / "a clone"


@pytest.fixture
def forks(tmp_path):
    return Forks(tmp_path / "bin", ("fairseq-kd", "fairseq-train", "sacrebleu"))


def words_for(teacher, *more) -> list:
    given = ["--raw", "raw", "--source-lang", "qaa", "--target-lang", "qab", "--teacher-folder", teacher / "ct2"]
    return ["scripts/distil_pretrained.sh", *given, *more]


def kill_after_a_checkpoint(folder):
    """A function for `Forks.run` that kills fairseq-train when it has written its first checkpoint."""

    def watch(name, process):
        if name == "fairseq-train":
            while process.poll() is None and not list(folder.glob("checkpoint*_*.pt")):
                time.sleep(0.005)
            os.kill(process.pid, signal.SIGKILL)

    return watch


def weights_of(path) -> dict:
    return torch.load(path)["model"]


def test_the_whole_script_killed_and_continued(clone, forks, marian):
    words, out = [*words_for(marian, "--family", "opus-mt", "--out", "the run"), *TINY], clone / "the run"
    killed = forks.run(words, clone, kill_after_a_checkpoint(out / "checkpoints"))
    assert killed.returncode == 2 and "fairseq-train has failed: above is the end of the run" in killed.stdout
    assert not (out / "student.pt").exists()
    done = forks.run(words, clone)
    assert done.returncode == 0, done.stdout[-3000:]
    trained = [call for call in forks.calls if call[0] == "fairseq-train"]
    assert "--restore-file" in trained[1] and trained[1][:-2] == trained[0]
    assert run_script(*trained[0], "--save-dir", "whole", cwd=clone).returncode == 0
    whole, ours = weights_of(clone / "whole" / "checkpoint_4_40.pt"), weights_of(out / "student.pt")
    assert all(torch.equal(whole[name], ours[name]) for name in whole)
    report = (out / "report.txt").read_text()
    assert done.stdout.endswith(f"{report}wrote the run/report.txt\n")
    rows = [row.split("\t") for row in (out / "teacher-test" / "test.hypotheses.qab.tsv").read_text().splitlines()]
    lines = (out / "teacher.lines").read_text().splitlines()
    assert lines == [join_pieces(row[5]) for row in rows if row[2] == "*"] and len(lines) == 30
    count = len(forks.calls)
    again = forks.run(words, clone)
    assert again.returncode == 0 and (out / "report.txt").read_text() == report
    assert {call[1] for call in forks.calls[count:]} == {"prepare", "decode", "mix"}  # which keep what they have made
