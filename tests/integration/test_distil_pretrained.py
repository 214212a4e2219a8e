"""scripts/distil_pretrained.sh with small models of the shapes of OPUS-MT and NLLB (M2M-100)."""

import fcntl
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

TINY = ["--parameters", "20k", "--vocab-size", "120", "--max-update", "10", "--cpu", "--", "--disable-validation"]
LANGUAGES = {"qaa": "de", "qab": "en"}  # of the corpus: of the page


@pytest.fixture
def clone(tmp_path, corpus, marian, nllb):
    """A folder with the scripts, without .venv, and with what the page has: short text and a converted teacher."""
    folder = tmp_path / "a clone"
    shutil.copytree(ROOT / "scripts", folder / "scripts")
    (folder / "text").mkdir()
    for name in ("train", "valid", "test"):
        for lang, code in LANGUAGES.items():
            lines = short_lines(corpus, f"{name}.{lang}")
            (folder / "text" / f"{name}.{code}").write_text("".join(f"{line}\n" for line in lines))
    news = [" ".join(line.split()[::-1]) for line in short_lines(corpus, "train.qaa")[:60]]
    (folder / "news.de.gz").write_bytes(gzip.compress("\n".join(news).encode()))
    (folder / "opus-mt-de-en").symlink_to(marian / "ct2")
    (folder / "nllb-600m").symlink_to(nllb / "ct2")
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


def kill_decode(words, process):
    if words[1] == "decode":
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
    lines = (out / "text" / "train.lines.tsv").read_text().splitlines()
    assert len(lines) == 60 and len((out / "text" / "train.kept.txt").read_text().split()) > 5
    parts = [f"runs/opus-mt/{name}" for name in ("data", "distilled", "text")]
    assert [call[2:5] for call in forks.calls if call[1] == "mix"] == [parts, parts]
    assert forks.run(second, clone, kill_decode).returncode == 128 + signal.SIGKILL
    command = " ".join(forks.calls[-1])
    assert "--teacher-source-lang deu_Latn --teacher-target-lang eng_Latn" in command and "--family nllb" in command
    other = clone / shlex.split(block.commands()[1])[shlex.split(block.commands()[1]).index("--out") + 1]
    done = forks.run(second, clone)  # continues
    assert done.returncode == 0 and (other / "report.txt").read_text().count("|tok:13a|") == 3, done.stdout[-3000:]
    with open(out / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused = forks.run(first, clone)
    assert refused.returncode == 2
    assert refused.stdout == "another run works in runs/opus-mt: wait for it, or choose another --out\n"


def check_student(clone, out, trained):
    """It was continued, and its weights are those of a training without interruption."""
    killed, continued = trained
    at = continued.index("--restore-file")
    assert continued[:at] + continued[at + 2 :] == killed and killed[-1] == "--disable-validation"
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
