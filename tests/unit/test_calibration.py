import calibration as uncertainty_calibration
import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from fairseq_kd.core.errors import KDError
from fairseq_kd.evaluation.calibration import (
    Outcomes,
    calibration,
    check_diagram,
    draw_reliability,
    expected_calibration_error,
    reliability,
)


def outcomes(probs, gold) -> Outcomes:
    return Outcomes.of(torch.tensor(probs, dtype=torch.float64).log(), torch.tensor(gold))


def test_nll_and_brier_of_two_tokens_worked_by_hand():
    found = calibration(outcomes([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]], [0, 1]), bins=1)
    assert found["nll_bits"] == pytest.approx((1 + 2) / 2)  # -log2 of 1/2 and of 1/4
    first = 0.5**2 + 0.25**2 + 0.25**2  # (0.5 - 1)², 0.25², 0.25²
    second = 0.5**2 + 0.75**2 + 0.25**2
    assert found["brier"] == pytest.approx((first + second) / 2)
    assert found["accuracy"] == 0.5 and found["confidence"] == 0.5 and found["ece"] == pytest.approx(0)


def test_entropy_is_in_bits_and_does_not_depend_on_the_gold_token():
    probs = [[0.5, 0.25, 0.25], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]  # 1.5, 0 and 1 bits
    for gold in ([0, 0, 0], [2, 0, 1]):
        assert calibration(outcomes(probs, gold), bins=1)["entropy_bits"] == pytest.approx(2.5 / 3)


def test_ece_of_four_tokens_worked_by_hand():
    confidence, correct = np.array([0.9, 0.4, 0.6, 0.8]), np.array([True, False, True, False])
    diagram = reliability(confidence, correct, bins=2)
    assert diagram == [
        {"tokens": 2, "confidence": pytest.approx(0.5), "accuracy": 0.5},  # 0.4 wrong, 0.6 right
        {"tokens": 2, "confidence": pytest.approx(0.85), "accuracy": 0.5},  # 0.8 wrong, 0.9 right
    ]
    assert expected_calibration_error(diagram) == pytest.approx(0.5 * 0 + 0.5 * 0.35)


def test_equal_confidences_are_never_parted_and_their_order_does_not_matter():
    confidence = np.array([1.0] * 6 + [0.25, 0.5])
    correct = np.array([True, False, True, False, True, True, False, True])
    diagram = reliability(confidence, correct, bins=4)
    assert [point["tokens"] for point in diagram] == [2, 6]
    assert diagram[1]["accuracy"] == pytest.approx(4 / 6)
    order = np.random.default_rng(0).permutation(8)
    assert reliability(confidence[order], correct[order], bins=4) == diagram


@pytest.fixture(scope="module")
def drawn():
    """1,000 overconfident distributions over 6 tokens, with the gold tokens."""
    generator = np.random.default_rng(3)
    true = generator.dirichlet(np.ones(6), size=1000)
    gold = np.array([generator.choice(6, p=row) for row in true])
    probs = true**2 / (true**2).sum(axis=1, keepdims=True)
    return probs, gold


@pytest.mark.parametrize("bins", [1, 10, 20])
def test_ece_is_that_of_uncertainty_calibration_and_the_diagram_that_of_scikit_learn(drawn, bins):
    probs, gold = drawn
    found = calibration(outcomes(probs, gold), bins)
    assert found["ece"] == pytest.approx(uncertainty_calibration.get_ece_em(probs, gold, num_bins=bins), abs=1e-9)
    correct, confidence = probs.argmax(axis=1) == gold, probs.max(axis=1)
    accuracies, confidences = calibration_curve(correct, confidence, n_bins=bins, strategy="quantile")
    assert [point["accuracy"] for point in found["bins"]] == pytest.approx(accuracies.tolist())
    assert [point["confidence"] for point in found["bins"]] == pytest.approx(confidences.tolist())
    assert {point["tokens"] for point in found["bins"]} == {1000 // bins}


def test_nll_and_brier_are_those_of_scikit_learn(drawn):
    probs, gold = drawn
    found = calibration(outcomes(probs, gold))
    assert found["nll_bits"] * np.log(2) == pytest.approx(log_loss(gold, probs, labels=range(6)))
    assert found["brier"] == pytest.approx(brier_score_loss(gold, probs, labels=range(6), scale_by_half=False))


def test_parts_can_be_joined(drawn):
    probs, gold = drawn
    parts = [outcomes(probs[:300], gold[:300]), outcomes(probs[300:], gold[300:])]
    assert calibration(Outcomes.joined(parts)) == calibration(outcomes(probs, gold))


@pytest.mark.parametrize(("name", "begin"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF")])
def test_the_diagram_is_drawn_and_nothing_else_is_left(drawn, tmp_path, name, begin):
    draw_reliability(calibration(outcomes(*drawn)), tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(begin)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_diagram_that_could_not_be_drawn_is_refused_beforehand(tmp_path, monkeypatch):
    with pytest.raises(KDError, match=r"must end with \.png"):
        check_diagram(tmp_path / "a.jpeg")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(KDError, match="pip install 'fairseq_kd"):
        check_diagram(tmp_path / "a.png")
