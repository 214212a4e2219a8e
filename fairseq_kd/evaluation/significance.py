"""Is a difference real? Paired tests over segments (sacreBLEU's), a paired t-test over seeds, Holm's correction."""

import numpy as np

from fairseq_kd.evaluation.score import PLAIN, Scorer

ROUNDING = 1e-9
TESTS = {"bootstrap": "bs", "approximate_randomisation": "ar"}  # our name -> sacreBLEU's


def segment_tests(
    metric: str, systems: list[list[str]], references: list[str], samples: dict[str, int], scorer: Scorer = PLAIN
) -> dict:
    """Both of sacreBLEU's paired tests of each system against the first.

    systems: hypotheses of each over the same segments. samples: test -> resamples or trials.
    Returns test -> {"signature", "scores", "p" (None for the first)}; the bootstrap also has "mean" and "ci" (half the
    width of the interval of 95 %). The seed is SACREBLEU_SEED, 12345 where that is not set.
    p is sacreBLEU's, but never below `least_p`: sacreBLEU counts only what is larger than the difference, so where few
    segments differ it finds nothing and reports the smallest p there is.
    Sources: Koehn 2004; Riezler & Maxwell 2005.
    """
    from sacrebleu.significance import PairedTest

    named = [(str(number), hypotheses) for number, hypotheses in enumerate(systems)]
    found = {}
    for test, kind in TESTS.items():
        paired = PairedTest(named, {metric: scorer.metric(metric)}, [references], kind, n_samples=samples[test])
        signatures, scores = paired()
        (name,) = signatures
        results = scores[name]
        found[test] = {
            "signature": f"{name}|{signatures[name]}",
            "scores": [float(result.score) for result in results],
            "p": [None]
            + [
                max(result.p_value, least_p(test, systems[0], hypotheses))
                for result, hypotheses in zip(results[1:], systems[1:], strict=True)
            ],
        }
        if test == "bootstrap":
            found[test] |= {"mean": [float(r.mean) for r in results], "ci": [float(r.ci) for r in results]}
    return found


def least_p(test: str, ours: list[str], theirs: list[str]) -> float:
    """What p cannot be below: 1 for the same translations, and for approximate randomisation 2 / 2^k.

    k is the number of segments that differ. Of the 2^k ways to exchange them, none and all give the difference itself.
    """
    differing = sum(a != b for a, b in zip(ours, theirs, strict=True))
    if differing == 0:
        return 1.0
    return 2.0 ** (1 - differing) if test == "approximate_randomisation" else 0.0


def paired_t(ours: list[float], theirs: list[float]) -> dict:
    """Two-sided paired t-test over seeds: {"t", "degrees_of_freedom", "p"}; t and p None where nothing varies.

    Nothing does where the differences are the same up to rounding.
    """
    from scipy.stats import ttest_rel

    differences = np.subtract(ours, theirs)
    degrees = len(differences) - 1
    if np.ptp(differences) <= ROUNDING * max(1.0, np.abs(differences).max()):
        return {"t": None, "degrees_of_freedom": degrees, "p": None}
    result = ttest_rel(ours, theirs)
    return {"t": float(result.statistic), "degrees_of_freedom": degrees, "p": float(result.pvalue)}


def holm(p_values: list[float | None]) -> list[float | None]:
    """p-values corrected for that there are m of them, in the same order. None, where nothing was tested, stays.

    The i-th smallest, from 0, times m - i, never smaller than the one before it, at most 1. Source: Holm 1979.
    """
    tested = [index for index, p in enumerate(p_values) if p is not None]
    corrected, largest = [None] * len(p_values), 0.0
    for rank, index in enumerate(sorted(tested, key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(tested) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected
