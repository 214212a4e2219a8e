"""Calibration: compare a model's probabilities under gold prefixes with the gold tokens.

For each of N target tokens (with EOS, without padding), with probabilities p over V tokens and gold token y:

    confidence   max p                                    correct   whether argmax p is y
    NLL          -log2 p(y), in bits                      Brier     sum over v of (p(v) - [v = y])², 0 to 2
    entropy      sum over v of -p(v) log2 p(v), in bits: how unsure the model is, whatever the gold token is
    ECE          sum over bins b of (N_b / N) |accuracy of b - mean confidence of b|, all bins have equally many tokens

Sources: Guo et al. 2017 (arXiv 1706.04599), eq. 3; equal mass: Nguyen & O'Connor 2015; Brier 1950.

matplotlib draws the reliability diagram.
"""

import importlib.util
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch

from fairseq_kd.artifacts.writing import ensure_writable_folder, file_in_progress
from fairseq_kd.core.errors import KDError
from fairseq_kd.loss.signal import ROWS_AT_A_TIME

BINS = 15


@dataclass(frozen=True)
class Outcomes:
    """The statistics of the distributions at N target tokens: numpy arrays (N,), float64; `correct` is bool."""

    confidence: np.ndarray
    correct: np.ndarray
    gold_lprobs: np.ndarray  # nats
    squares: np.ndarray  # sum over v of p(v)²
    entropy: np.ndarray  # nats

    @classmethod
    def of(cls, lprobs: torch.Tensor, gold: torch.Tensor) -> "Outcomes":
        """From log-probabilities (N, V) and token ids (N,)."""
        probs = lprobs.double().exp()
        confidence, best = probs.max(dim=-1)
        gold_lprobs = lprobs.double().gather(-1, gold.unsqueeze(-1)).squeeze(-1)
        columns = (
            confidence,
            best == gold,
            gold_lprobs,
            probs.square().sum(dim=-1),
            torch.special.entr(probs).sum(dim=-1),
        )
        return cls(*(column.cpu().numpy() for column in columns))

    @classmethod
    def joined(cls, parts: list["Outcomes"]) -> "Outcomes":
        """The outcomes of all parts in one."""
        return cls(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(cls)))


def observe(model, batches: Iterable) -> Outcomes:
    """Run a `FrozenModel` over the batches of `gold_batches`. Raises KDError when its probabilities are not finite."""
    parts = []
    for sample, keep in batches:
        signal, gold = model.signal(sample, keep), sample["target"][keep]
        for start in range(0, len(gold), ROWS_AT_A_TIME):
            end = min(start + ROWS_AT_A_TIME, len(gold))
            parts.append(Outcomes.of(signal.rows(start, end), gold[start:end]))
    outcomes = Outcomes.joined(parts)
    if not np.isfinite(outcomes.gold_lprobs).all():
        raise KDError(f"{model.path} gives probabilities that are not finite: its training diverged; use another one")
    return outcomes


def calibration(outcomes: Outcomes, bins: int = BINS) -> dict:
    """{"tokens", "accuracy", "confidence", "ece", "nll_bits", "brier", "entropy_bits", "bins": see `reliability`}."""
    diagram = reliability(outcomes.confidence, outcomes.correct, bins)
    return {
        "tokens": len(outcomes.correct),
        "accuracy": float(outcomes.correct.mean()),
        "confidence": float(outcomes.confidence.mean()),
        "ece": expected_calibration_error(diagram),
        "nll_bits": float(-outcomes.gold_lprobs.mean() / math.log(2)),
        "brier": float((outcomes.squares - 2 * np.exp(outcomes.gold_lprobs) + 1).mean()),
        "entropy_bits": float(outcomes.entropy.mean() / math.log(2)),
        "bins": diagram,
    }


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int) -> list[dict]:
    """The points of the diagram by rising confidence: {"tokens", "confidence", "accuracy"}, means over each bin.

    The edges of the bins are quantiles of `confidence`. Equal confidences are always in the same bin, so bins can
    differ in size and there can be fewer than `bins`, for example where many confidences are 1.
    """
    edges = np.quantile(confidence, np.arange(1, bins) / bins)
    number = np.searchsorted(edges, confidence)
    points = [(confidence[number == b], correct[number == b]) for b in np.unique(number)]
    return [
        {"tokens": len(of_bin), "confidence": float(of_bin.mean()), "accuracy": float(right.mean())}
        for of_bin, right in points
    ]


def expected_calibration_error(diagram: list[dict]) -> float:
    """ECE, 0 to 1, from the points of `reliability`."""
    total = sum(point["tokens"] for point in diagram)
    return sum(point["tokens"] * abs(point["accuracy"] - point["confidence"]) for point in diagram) / total


SUFFIXES = (".png", ".svg", ".pdf")


def check_diagram(path) -> None:
    """Raises KDError when the diagram could not be written. Call it before the evaluation, not after it."""
    if Path(path).suffix not in SUFFIXES:
        raise KDError(f"--diagram {path}: the name must end with {', '.join(SUFFIXES)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise KDError("--diagram needs matplotlib: pip install 'fairseq_kd[report]'")
    ensure_writable_folder(Path(path).absolute().parent)


def draw_reliability(calibration: dict, path) -> None:
    """Draw the accuracy of each bin over its confidence, with the diagonal of a calibrated model.

    calibration: the result of the function `calibration`.
    """
    from matplotlib.figure import Figure

    path = Path(path)
    figure = Figure(figsize=(4.2, 4.2), layout="constrained")
    axes = figure.subplots()
    confidence = [point["confidence"] for point in calibration["bins"]]
    accuracy = [point["accuracy"] for point in calibration["bins"]]
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--", label="calibrated")
    axes.plot(confidence, accuracy, marker="o", clip_on=False, label=f"ECE {calibration['ece']:.4f}")
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="confidence", ylabel="accuracy")
    axes.set_title(f"{calibration['tokens']:,} tokens, {len(confidence)} bins of equal mass", fontsize="medium")
    axes.legend(loc="upper left")
    with file_in_progress(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=150)
