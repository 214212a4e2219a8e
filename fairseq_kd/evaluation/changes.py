"""Learning and forgetting by segment: the shares of segments that a system translates better or worse than another one.

    difference      sentence chrF after - sentence chrF before, in points from -100 to 100
    gained, lost    segments whose difference is above the threshold, or below the negative threshold
    kept            all other segments
    net             share gained - share lost

A result ("changes" of `evaluate`) or a system of a comparison ("changes" of `compare`) has these keys (JSON):

    signature, threshold    of sacreBLEU's sentence chrF; in points
    interval                how the 95 % intervals were made, one of INTERVALS
    seeds                   of the runs afterwards, one per pair of runs
    overall                 of all segments: {"segments", "chrf_before", "chrf_after", "gained", "kept", "lost", "net"}
    parts                   with parts: the same keys for each part, and "part", its label
    parts_sha256            with parts: of the labels with a newline after each
    sensitivity             {"threshold", "gained", "kept", "lost", "net"} at half and at double the threshold
    examples                on request: `segment_changes.find_examples`

Each class has {"share", "interval", "shares", "counts", "chrf_before", "chrf_after"}, and net {"share", "interval",
"shares"}. shares and counts have one value per run, share is their mean. chrf_before and chrf_after are means over the
segments of the class in all runs, None without such segments.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fairseq_kd.core.errors import KDError
from fairseq_kd.evaluation.estimates import CONFIDENCE, ROUNDING, over_seeds

CLASSES = ("gained", "kept", "lost")
NET = "net"
# One wrong word of five letters costs about 5 points of chrF in a segment of 30 words, and more in a shorter segment.
THRESHOLD = 5.0
FACTORS = (0.5, 2)  # of the thresholds that show how much the shares depend on the threshold
INTERVALS = {
    "wilson": "over segments: Wilson's for shares, Agresti and Min's for net",
    "t": "over seeds: of the t distribution",
}


@dataclass(frozen=True)
class ChangeOptions:
    """How segments are counted.

    threshold: in points of chrF. parts: a file with one label per segment. show: number of the most changed segments
    that the entry lists. sources: a file with the source text, for these.
    """

    threshold: float = THRESHOLD
    parts: str | None = None
    show: int = 0
    sources: str | None = None

    def __post_init__(self):
        if not 0 < self.threshold < 100:
            raise KDError(f"--change-threshold {self.threshold:g}: must be above 0 and below 100, in points of chrF")
        if self.show < 0:
            raise KDError(f"--show {self.show}: must be 0 or above")


def count_changes(before: np.ndarray, after: np.ndarray, threshold: float, labels: Sequence[str] | None = None) -> dict:
    """The entries "overall", "parts", "sensitivity" and "interval".

    before, after: sentence chrF (runs, segments), where run r afterwards belongs to run r before. labels: the part of
    each segment. Parts are in the order of `order_of_parts`.
    """
    found = {"interval": "wilson" if len(after) == 1 else "t", "overall": _group(before, after, threshold)}
    if labels is not None:
        places = {label: np.array([label == other for other in labels]) for label in order_of_parts(labels)}
        found["parts"] = [
            {"part": label, **_group(before[:, own], after[:, own], threshold)} for label, own in places.items()
        ]
    return found | {"sensitivity": [_shares(before, after, factor * threshold) for factor in FACTORS]}


def order_of_parts(labels: Sequence[str]) -> list[str]:
    """Each label once: numbers by their value, then words."""
    return sorted(set(labels), key=lambda label: (not label.isdecimal(), int(label) if label.isdecimal() else 0, label))


def _masks(before: np.ndarray, after: np.ndarray, threshold: float) -> dict:
    """Class -> whether a segment of a run belongs to it, (runs, segments)."""
    difference, least = after - before, threshold + ROUNDING
    gained, lost = difference > least, difference < -least
    return {"gained": gained, "kept": ~(gained | lost), "lost": lost}


def _shares(before: np.ndarray, after: np.ndarray, threshold: float) -> dict:
    shares = {name: float(mask.mean()) for name, mask in _masks(before, after, threshold).items()}
    return {"threshold": threshold, **shares, NET: shares["gained"] - shares["lost"]}


def _group(before: np.ndarray, after: np.ndarray, threshold: float) -> dict:
    """The counts of some segments. before, after: (runs, segments)."""
    segments, masks = after.shape[1], _masks(before, after, threshold)
    counts = {name: mask.sum(axis=1) for name, mask in masks.items()}
    found = {"segments": segments, "chrf_before": float(before.mean()), "chrf_after": float(after.mean())}
    for name, mask in masks.items():
        shares = counts[name] / segments
        interval = wilson(int(counts[name][0]), segments) if len(shares) == 1 else _over_seeds(shares, 0.0)
        found[name] = {"share": float(shares.mean()), "interval": interval, "shares": shares.tolist()}
        means = {"chrf_before": before, "chrf_after": after}
        found[name] |= {"counts": counts[name].tolist()}
        found[name] |= {key: float(scores[mask].mean()) if mask.any() else None for key, scores in means.items()}
    nets = (counts["gained"] - counts["lost"]) / segments
    ends = [int(counts[name][0]) for name in ("gained", "lost")]
    interval = agresti_min(*ends, segments) if len(nets) == 1 else _over_seeds(nets, -1.0)
    return found | {NET: {"share": float(nets.mean()), "interval": interval, "shares": nets.tolist()}}


def _over_seeds(shares: np.ndarray, lowest: float) -> list[float] | None:
    """The 95 % interval of the mean over seeds, at most from `lowest` to 1; None if all seeds have the same share."""
    interval = over_seeds(shares).interval()
    return None if interval is None else [max(lowest, interval[0]), min(1.0, interval[1])]


def wilson(count: int, segments: int) -> list[float]:
    """The 95 % interval of the share count / segments. Source: Wilson 1927; also valid for a share of 0 or 1."""
    from scipy.stats import binomtest

    return list(map(float, binomtest(count, segments).proportion_ci(CONFIDENCE, method="wilson")))


def agresti_min(gained: int, lost: int, segments: int) -> list[float]:
    """The 95 % interval of (gained - lost) / segments, at most from -1 to 1.

    It is the interval of the normal distribution after half a segment was added to gained and to lost, and one segment
    to kept. Source: Agresti & Min 2005 (Statistics in Medicine 24), for a difference between paired shares.
    """
    from scipy.stats import norm

    total = segments + 2
    shares = [(count + 0.5) / total for count in (gained, lost)]
    net = shares[0] - shares[1]
    half = float(norm.isf((1 - CONFIDENCE) / 2)) * ((sum(shares) - net**2) / total) ** 0.5
    return [max(-1.0, net - half), min(1.0, net + half)]
