"""Adaptive and compact students inside stock fairseq commands (two processes: test_two_processes.py)."""

import json

import pytest
import torch
from conftest import TINY_MODEL, assert_user_error, run_fairseq
from process_helpers import run_kd

ADAPTIVE = [
    *("--arch", "kd_adaptive_3m", "--encoder-layers", "2", "--encoder-attention-heads", "4", "--ffn-type", "glu"),
    *("--capacity-target", "0.6", "--capacity-warmup", "2", "--capacity-lr", "1", "--dropout", "0.1"),
]


def train(data_bin, teacher, *extra):
    kd = ["--criterion", "kd_word", "--teacher", teacher, "--label-smoothing", "0.1"]
    return run_fairseq("train", data_bin, *TINY_MODEL, *ADAPTIVE, *kd, *extra)


def model_of(path):
    return torch.load(path, weights_only=True)["model"]


@pytest.fixture(scope="module")
def trained(data_bin, teacher, tmp_path_factory):
    """Twelve updates, without a pause, and with one."""
    folder = tmp_path_factory.mktemp("adaptive")
    whole = train(data_bin, teacher, "--max-update", "12", "--save-dir", folder / "whole")
    begun = train(data_bin, teacher, "--max-update", "5", "--save-dir", folder / "resumed")
    resumed = train(
        data_bin, teacher, "--max-update", "12", "--save-dir", folder / "resumed", "--tensorboard-logdir", folder / "b"
    )
    for result in (whole, begun, resumed):
        assert result.returncode == 0, result.stderr[-3000:]
    return folder, whole


def test_a_resumed_training_has_the_same_gates_and_multipliers(trained):
    folder, _ = trained
    whole, resumed = (model_of(folder / name / "checkpoint_last.pt") for name in ("whole", "resumed"))
    assert whole.keys() == resumed.keys() and "_extra_state" in whole
    assert whole["_extra_state"][2] == 11 and whole["_extra_state"][0] > 0
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name
    moved = [value for name, value in whole.items() if name.endswith("gates.score")]
    assert all(not torch.equal(value, torch.full_like(value, 0.25)) for value in moved)


def test_capacity_and_open_gates_are_in_the_json_log_and_on_the_tensorboard(trained):
    folder, whole = trained
    lines = [
        line.split(" | train_inner | ")[1]
        for line in (whole.stdout + whole.stderr).splitlines()
        if "| train_inner |" in line
    ]
    entries = [json.loads(line) for line in lines]
    names = (
        "capacity",
        "capacity_parameters",
        "capacity_kept",
        "open_encoder.1.channels",
        "open_decoder.0.cross_heads",
    )
    assert all(name in entries[-1] for name in names)
    capacities = [float(entry["capacity"]) for entry in entries]
    assert capacities[0] == capacities[1] > capacities[-1] > 0.6
    written = b"".join(file.read_bytes() for file in (folder / "b").rglob("events*"))
    assert b"open_encoder.1.channels" in written


def test_compacting_decoding_and_training_on(trained, data_bin, teacher, tmp_path):
    """What stock fairseq-generate prints for the gated student it prints for the compact one."""
    folder, _ = trained
    gated = tmp_path / "gated.pt"
    state = torch.load(folder / "whole" / "checkpoint_last.pt", weights_only=True)
    for number, (name, value) in enumerate(item for item in state["model"].items() if item[0].endswith("gates.score")):
        value += 0.2 * torch.randn(value.shape, generator=torch.Generator().manual_seed(number))
        value[: len(value) // 2] = -0.9 if "layers.0" in name else value[: len(value) // 2]
    torch.save(state, gated)
    small = tmp_path / "small.pt"
    result = run_kd("compact", gated, "--out", small)
    assert result.returncode == 0 and "parameters (" in result.stdout, result.stderr
    printed = []
    for checkpoint in (gated, small):
        result = run_fairseq("generate", data_bin, "--path", checkpoint, "--cpu", "--beam", "3", "--max-len-b", "20")
        assert result.returncode == 0, result.stderr[-2000:]
        printed.append([line.split("\t")[2] for line in result.stdout.splitlines() if line.startswith("H-")])
    assert printed[0] == printed[1] and len(printed[0]) > 20
    result = run_kd("evaluate", data_bin, "--checkpoint", small, "--cpu")
    assert result.returncode == 0 and "BLEU" in result.stdout, result.stderr
    training = TINY_MODEL[TINY_MODEL.index("--optimizer") :]
    kd = ["--criterion", "kd_word", "--teacher", teacher, "--save-dir", tmp_path / "tuned", "--max-update", "3"]
    like = ["--arch", "kd_student", "--like", small, "--finetune-from-model", small]
    result = run_fairseq("train", data_bin, *training, *kd, *like)
    assert result.returncode == 0, result.stderr[-3000:]
    tuned = model_of(tmp_path / "tuned" / "checkpoint_last.pt")
    assert {name: value.shape for name, value in tuned.items()} == {
        name: value.shape for name, value in model_of(small).items()
    }


def test_a_target_above_the_model_ends_with_status_2(data_bin, teacher, tmp_path):
    result = train(data_bin, teacher, "--save-dir", tmp_path, "--capacity-target", "5e6")
    assert_user_error(result, "--capacity-target 5,000,000 is more than the")
