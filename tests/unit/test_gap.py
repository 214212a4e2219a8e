"""evaluate --gap: the losses on the subset and on as many tokens of the training set."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from helpers import batch

from fairseq_kd.cli.main import main
from fairseq_kd.evaluation.gap import Gap, GapOptions, Likelihoods, likelihoods
from fairseq_kd.evaluation.system import TranslateOptions, open_system
from fairseq_kd.inference.opening import open_data


@pytest.fixture(scope="module")
def system(data_bin, teacher):
    return open_system(teacher, data_bin, "test", TranslateOptions(cpu=True), 30)


def bits_of(system, task, subset: str, number: int) -> float:
    """By the model's plain forward pass."""
    sample = batch(task, [number], subset)
    with torch.no_grad():
        net_output = system.model(**sample["net_input"])
        lprobs = system.model.get_normalized_probs(net_output, log_probs=True)[0]
    return torch.nn.functional.nll_loss(lprobs, sample["target"][0], reduction="sum").item() / math.log(2)


def test_likelihoods_are_those_of_the_plain_forward_pass(system, data_bin):
    found = likelihoods(system, system.dataset, "loss")
    assert found.bits == pytest.approx([bits_of(system, system.task, "test", n) for n in range(30)], rel=1e-4)
    assert found.tokens.tolist() == system.dataset.tgt_sizes.tolist()
    train = open_data(data_bin, ("qaa", "qab"), "train")
    chosen = np.array([3, 7, 200])
    found = likelihoods(system, train.dataset("train"), "loss", chosen)
    assert found.bits == pytest.approx([bits_of(system, train, "train", n) for n in chosen], rel=1e-4)


def test_the_sample_has_as_many_tokens_and_depends_on_the_seed(system, data_bin):
    tokens = int(system.dataset.tgt_sizes.sum())
    gaps = [Gap(GapOptions(seed=seed), system, data_bin) for seed in (1, 1, 2)]
    samples = [gap._sample(tokens)[0] for gap in gaps]
    assert samples[0].tolist() == samples[1].tolist() != samples[2].tolist()
    sizes = np.asarray(gaps[0].training.tgt_sizes)
    for sample in samples:
        assert len(set(sample)) == len(sample)
        assert tokens <= sizes[sample].sum() < tokens + sizes.max()
    assert len(gaps[0]._sample(10**9)[0]) == 400  # all


def test_sentences_beyond_the_positions_are_left_out_and_counted(system, data_bin, monkeypatch):
    gap = Gap(GapOptions(), system, data_bin)
    sizes = np.maximum(gap.training.src_sizes, gap.training.tgt_sizes)
    limit = int(np.median(sizes))
    monkeypatch.setattr(system.model, "max_positions", lambda: (limit, limit))
    chosen, too_long = gap._sample(10**9)
    assert chosen.tolist() == np.flatnonzero(sizes <= limit).tolist() and too_long == (sizes > limit).sum() > 0


def test_the_gap_and_its_interval_in_a_result(system, data_bin, teacher, tmp_path, capsys):
    words = ["evaluate", data_bin, "--checkpoint", teacher, "--cpu", "--max-len-b", 8, "--beam", 1, "--gap"]
    words += ["--calibration", "--confidence-n", 200, "--out", tmp_path / "a.json"]
    assert main([*map(str, words)]) == 0
    result = json.loads((tmp_path / "a.json").read_text())
    found = result["gap"]
    assert found["evaluated"]["nll_bits"] == pytest.approx(result["calibration"]["nll_bits"], rel=1e-6)
    assert found["evaluated"]["tokens"] == result["calibration"]["tokens"]
    assert found["gap_bits"] == found["evaluated"]["nll_bits"] - found["train"]["nll_bits"]
    assert found["interval"][0] < found["gap_bits"] < found["interval"][1]
    assert (found["seed"], found["too_long"], found["data"]) == (1, 0, str(data_bin))
    assert f"gap {found['gap_bits']:+.3f}, 95 % interval" in capsys.readouterr().out


def test_a_training_set_that_was_learned_by_heart_shows_a_gap():
    """The interval is that of a normal distribution: the difference of two means of many sentences."""
    rng = np.random.default_rng(0)
    tokens = np.full(4000, 10.0)
    ours = Likelihoods(rng.normal(40, 10, 4000), tokens)
    theirs = Likelihoods(rng.normal(20, 10, 4000), tokens)
    gaps = ours.resampled(2000, np.random.default_rng(1)) - theirs.resampled(2000, np.random.default_rng(2))
    low, high = np.quantile(gaps, (0.025, 0.975))
    half = 1.96 * math.sqrt(2 * 10**2 / 4000) / 10
    assert ours.mean - theirs.mean == pytest.approx(2, abs=0.05)
    assert high - low == pytest.approx(2 * half, rel=0.1)
    assert Likelihoods(np.array([6.0, 4.0]), np.array([3.0, 1.0])).mean == 2.5  # per token, not per sentence


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gap-seed", 2], "--gap-data and --gap-seed have no effect without --gap"),
        (["--gap", "--gap-seed", -1], "--gap-seed -1: must be 0 or above"),
        (["--gap", "--gap-data", "gone"], "gone is not a folder"),
    ],
)
def test_bad_options_are_one_error(data_bin, teacher, capsys, words, message):
    assert main(["evaluate", str(data_bin), "--checkpoint", str(teacher), "--cpu", *map(str, words)]) == 2
    error = capsys.readouterr().err
    assert message in error and "decoding" not in error


def test_a_training_set_with_other_dictionaries_is_refused(data_bin, teacher, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(data_bin, other, ignore=shutil.ignore_patterns("manifest.json", "subword", "raw"))
    lines = (other / "dict.qab.txt").read_text().splitlines()
    (other / "dict.qab.txt").write_text("\n".join([lines[1], lines[0], *lines[2:]]) + "\n")
    words = ["evaluate", data_bin, "--checkpoint", teacher, "--cpu", "--gap", "--gap-data", other]
    assert main([*map(str, words)]) == 2
    assert "dictionaries" in capsys.readouterr().err
