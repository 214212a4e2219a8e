"""A checkpoint that select-teacher has averaged, in the commands of stock fairseq."""

import json

import pytest
from conftest import TINY_MODEL, run_fairseq
from helpers import write_variant

from fairseq_kd.cli.main import main


@pytest.fixture(scope="module")
def averaged(data_bin, teacher, tmp_path_factory):
    """(The mean of the teacher and a checkpoint near it, its row in the selection)."""
    folder = tmp_path_factory.mktemp("averaged")
    (folder / "training").mkdir()
    for updates, noise in ((40, 0.0), (50, 0.02)):
        write_variant(teacher, folder / "training" / f"checkpoint_1_{updates}.pt", noise, updates)
    out = folder / "mean.pt"
    words = ["--by", "low-loss", "--average", 2, "--out-checkpoint", out, "--beam", 1, "--max-len-b", 20, "--cpu"]
    assert main(list(map(str, ["select-teacher", data_bin, "--checkpoints", folder / "training", *words]))) == 0
    found = json.loads((folder / "training" / "selection" / "selection.json").read_text())
    return out, found["checkpoints"][-1]


def test_fairseq_generate_reads_it(averaged, data_bin):
    words = ("--path", averaged[0], "--cpu", "--beam", "1", "--max-len-b", "20", "--gen-subset", "valid")
    result = run_fairseq("generate", data_bin, *words, "--required-batch-size-multiple", "1")
    assert result.returncode == 0, result.stderr[-2000:]
    assert sum(line.startswith("H-") for line in result.stdout.splitlines()) == 30


def test_training_goes_on_from_it_as_student_and_with_it_as_teacher(averaged, data_bin, tmp_path):
    out, row = averaged
    words = (*TINY_MODEL, "--finetune-from-model", out, "--criterion", "kd_word", "--teacher", out, "--lr", "1e-9")
    result = run_fairseq("train", data_bin, *words, "--max-update", "1", "--save-dir", tmp_path / "student")
    assert result.returncode == 0, result.stderr[-2000:]
    lines = [line for line in (result.stdout + result.stderr).splitlines() if '"valid_nll_loss"' in line]
    logged = json.loads(lines[-1][lines[-1].index("{") :])
    assert float(logged["valid_nll_loss"]) == pytest.approx(row["nll"], abs=2e-3)  # what fairseq-train prints
