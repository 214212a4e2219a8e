"""`evaluate --checkpoint A:B`: an ensemble is scored as one system."""

import json

import pytest
import torch
from fairseq import checkpoint_utils
from helpers import write_variant

from fairseq_kd.cli.main import main
from fairseq_kd.core.errors import KDError
from fairseq_kd.evaluation import evaluate_checkpoint

SEARCH = {"cpu": True, "max_len_b": 30, "beam": 2}


@pytest.fixture(scope="module")
def pair(teacher, tmp_path_factory):
    """The trained teacher, and a checkpoint near it that translates differently."""
    other = tmp_path_factory.mktemp("ensemble") / "other.pt"
    write_variant(teacher, other, 0.3, 1)
    return teacher, other


def joined(*paths) -> str:
    return ":".join(map(str, paths))


def test_the_ensemble_of_one_checkpoint_with_itself_is_that_checkpoint_and_costs_three_times_as_much(data_bin, pair):
    given = {"bins": 4, **SEARCH}
    one, three = (evaluate_checkpoint(data_bin, path, **given) for path in (pair[0], joined(*[pair[0]] * 3)))
    assert three["hypotheses"] == one["hypotheses"] and three["bleu"] == one["bleu"]
    assert three["calibration"]["nll_bits"] == pytest.approx(one["calibration"]["nll_bits"], rel=1e-5)
    assert three["parameters"] == 3 * one["parameters"] and three["updates"] == 3 * one["updates"]
    for name in ("weights_bytes", "checkpoint_bytes", "operations_per_token"):
        assert three["efficiency"][name] == 3 * one["efficiency"][name]
    assert three["members"] == [one["checkpoint_sha256"]] * 3 and "members" not in one
    assert three["seed"] is None and one["seed"] is not None


def test_its_probabilities_are_the_mean_of_those_that_fairseq_computes(data_bin, pair):
    """The reference: models that stock fairseq loads, one sentence at a time."""
    found = evaluate_checkpoint(data_bin, joined(*pair), bins=4, **SEARCH)
    models, _, task = checkpoint_utils.load_model_ensemble_and_task(list(map(str, pair)), {"data": str(data_bin)})
    task.load_dataset("test")
    dataset, bits, tokens = task.dataset("test"), 0.0, 0
    for number in range(len(dataset)):
        sample = dataset.collater([dataset[number]])
        probabilities = []
        for model in models:
            with torch.no_grad():
                lprobs = model.eval().get_normalized_probs(model(**sample["net_input"]), log_probs=True)
            probabilities.append(lprobs.exp().gather(-1, sample["target"].unsqueeze(-1)))
        bits -= float((sum(probabilities) / 2).log2().sum())
        tokens += sample["target"].numel()
    assert found["calibration"]["tokens"] == tokens
    assert found["calibration"]["nll_bits"] == pytest.approx(bits / tokens, rel=1e-5)


def test_its_translations_are_those_of_the_same_ensemble_as_a_teacher(data_bin, pair, tmp_path):
    """The command, which writes the file; and the order of the members has no effect."""
    out = tmp_path / "result.json"
    words = ["--checkpoint", joined(*pair), "--out", str(out), "--cpu", "--beam", "2", "--max-len-b", "30"]
    assert main(["evaluate", str(data_bin), *words]) in (0, None)
    result = json.loads(out.read_text())
    other = evaluate_checkpoint(data_bin, pair[1], teacher=joined(*reversed(pair)), **SEARCH)
    assert result["hypotheses"] == other["agreement"]["teacher_hypotheses"] != other["hypotheses"]
    assert result["checkpoint"] == joined(*pair) and result["sentences"] == 30


def test_bad_members_are_one_clear_error(data_bin, pair, tmp_path):
    broken, reverse = tmp_path / "broken.pt", tmp_path / "reverse.pt"
    broken.write_bytes(pair[0].read_bytes()[:1000])
    state = torch.load(pair[0])
    state["cfg"]["task"] |= {"source_lang": "qab", "target_lang": "qaa"}
    torch.save(state, reverse)
    for other, message in (
        (broken, "broken.pt"),
        (tmp_path / "missing.pt", "missing.pt"),
        (reverse, "reverse.pt translates qab-qaa, but .* translates qaa-qab"),
    ):
        with pytest.raises(KDError, match=message):
            evaluate_checkpoint(data_bin, joined(pair[0], other), **SEARCH)
    pytest.importorskip("ctranslate2")
    with pytest.raises(KDError, match="it has no ensembles"):
        evaluate_checkpoint(data_bin, joined(*pair), backend="ctranslate2", **SEARCH)
