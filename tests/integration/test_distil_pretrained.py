"""scripts/distil_pretrained.sh with small models of the shapes of OPUS-MT and NLLB."""

import gzip
import os
import re
import shlex
import shutil
import signal
import time

import pytest
import torch
from conftest import ROOT
from docs_helpers import blocks_run_by
from pretrained_helpers import short_lines
from process_helpers import run_script
from script_helpers import Forks

from fairseq_kd.corpus.sentencepiece_model import join_pieces

TINY = ["--parameters", "20k", "--vocab-size", "120", "--max-update", "10", "--cpu"]
LANGUAGES = {"qaa": "de", "qab": "en"}  # of the corpus: of the page


@pytest.fixture
def clone(tmp_path, corpus, marian, nllb):
    """A folder with the scripts, without .venv, and with what the page has: short text and converted teachers."""
    folder = tmp_path / "a clone"
    shutil.copytree(ROOT / "scripts", folder / "scripts")
    (folder / "text").mkdir()
    for name in ("train", "valid", "test"):
        for lang, code in LANGUAGES.items():
            lines = short_lines(corpus, f"{name}.{lang}")
            (folder / "text" / f"{name}.{code}").write_text("".join(f"{line}\n" for line in lines))
    news = [" ".join(line.split()[::-1]) for line in short_lines(corpus, "train.qaa")[:60]]
    (folder / "news.de.gz").write_bytes(gzip.compress("\n".join(news).encode()))
    for name, teacher in (("opus-mt-de-en", marian), ("nllb-600m", nllb)):
        (folder / name).symlink_to(teacher / "ct2")
    return folder


@pytest.fixture
def forks(tmp_path):
    return Forks(tmp_path / "bin", ("fairseq-kd", "fairseq-train", "sacrebleu"))


def kill_after_a_checkpoint(folder):
    """A function for `Forks.run` that kills fairseq-train when it has written its first checkpoint."""

    def watch(words, process):
        if words[0] == "fairseq-train":
            while process.poll() is None and not list(folder.glob("checkpoint*_*.pt")):
                time.sleep(0.005)
            os.kill(process.pid, signal.SIGKILL)

    return watch


def kill_mix(words, process):
    if words[1] == "mix":
        os.kill(process.pid, signal.SIGKILL)


def weights_of(path) -> dict:
    return torch.load(path)["model"]


def test_the_commands_about_distilling_a_pretrained_teacher(clone, forks):
    (block,) = blocks_run_by("test_the_commands_about_distilling_a_pretrained_teacher")
    first, second = ([*shlex.split(command), *TINY] for command in block.commands())
    out = clone / "runs" / "opus-mt"
    killed = forks.run(first, clone, kill_after_a_checkpoint(out / "checkpoints"))
    assert killed.returncode == 2 and "fairseq-train has failed: above is the end of runs/opus-mt" in killed.stdout
    assert not (out / "student.pt").exists()
    done = forks.run(first, clone)
    assert done.returncode == 0, done.stdout[-3000:]
    check_student(clone, out, [call for call in forks.calls if call[0] == "fairseq-train"])
    check_report(out, done.stdout)
    count, report = len(forks.calls), (out / "report.txt").stat()
    assert forks.run(first, clone).returncode == 0 and (out / "report.txt").stat().st_mtime_ns == report.st_mtime_ns
    assert {call[1] for call in forks.calls[count:]} == {"prepare", "decode", "mix"}  # they keep what they have made
    assert forks.run(second, clone, kill_mix).returncode == 128 + signal.SIGKILL
    lines = (clone / "runs" / "nllb" / "text" / "train.lines.tsv").read_text().splitlines()
    kept = (clone / "runs" / "nllb" / "text" / "train.kept.txt").read_text().splitlines()
    assert len(lines) == 60 and len(kept) > 5
    assert forks.calls[-1][1:5] == ["mix", *(f"runs/nllb/{name}" for name in ("data", "distilled", "text"))]


def check_student(clone, out, trained):
    """It was continued, and its weights are those of a training without interruption."""
    killed, continued = trained
    assert "--restore-file" not in killed and continued[:-2] == killed and continued[-2] == "--restore-file"
    assert run_script(*killed, "--save-dir", "whole", cwd=clone).returncode == 0
    whole, ours = weights_of(clone / "whole" / "checkpoint2.pt"), weights_of(out / "student.pt")
    assert all(torch.equal(whole[name], ours[name]) for name in whole)


def check_report(out, said):
    """It is the end of the output. The teacher's lines are joined as the data-bin joins subwords."""
    report = (out / "report.txt").read_text()
    assert said.endswith(f"{report}wrote runs/opus-mt/report.txt\n")
    rows = [row.split("\t") for row in (out / "teacher-test" / "test.hypotheses.en.tsv").read_text().splitlines()]
    lines = (out / "teacher.lines").read_text().splitlines()
    assert lines == [join_pieces(row[5]) for row in rows if row[2] == "*"] and len(lines) == 30
    assert report.count("|tok:13a|") == 3 and "bytes on disk" in report  # teacher, student, exported student
    assert re.search(r"^(19|20),\d{3} parameters", report, re.M)
    assert report.splitlines()[-2] == (out / "data" / "raw" / "test.de").read_text().splitlines()[0]
