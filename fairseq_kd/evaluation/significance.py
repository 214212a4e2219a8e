"""Significance of differences: paired tests over segments, t-tests over runs, Holm's correction."""

import os
from collections.abc import Callable, Iterator

import numpy as np
from sacrebleu.significance import estimate_ci

from fairseq_kd.scoring.score import PLAIN, Scorer

ROUNDING = 1e-9
TESTS = {"bootstrap": "bs", "approximate_randomisation": "ar"}  # our name -> sacreBLEU's, in signatures
EXACT = 2**16  # up to this number of exchanges, or up to the number of trials, all exchanges are counted
ROWS_AT_A_TIME = 512  # trials or resamples per draw; a multiple of 32, so the draws equal one draw of all rows


def segment_tests(
    metric: str, systems: list[list[str]], references: list[str], samples: dict[str, int], scorer: Scorer = PLAIN
) -> dict:
    """Paired bootstrap and approximate randomisation of each system against the first.

    systems: the hypotheses of each system for the same segments. samples: test -> number of resamples or trials.
    Returns test -> {"signatures", "scores", "p"}, with one value per system. The bootstrap also has "mean" and "ci"
    (half the width of the 95 % interval) of the score, and "error" and "interval" of the difference from the first
    system: its standard deviation and its 2.5th and 97.5th percentile over the resamples. The first system has None in
    "p", "error" and "interval", and signature None in the randomisation test.
    The seed is SACREBLEU_SEED, or 12345 if that is not set. A signature has "ar:exact_2^k" where all exchanges of k
    segments were counted.
    The statistics of segments, the scores and the draws are sacreBLEU's, so p is the same as sacreBLEU's except for
    ties: sacreBLEU counts differences larger than the observed one. Equal differences count here too, as in the
    sources.
    Sources: see `randomisation_p` and `bootstrap_p`.
    """
    measure, statistics = _statistics(metric, systems, references, scorer)
    sums = np.stack([rows.sum(axis=0) for rows in statistics])
    score, scores = _scorer(measure), [measure._compute_score_from_stats(row) for row in sums.tolist()]
    observed = np.array([one.score for one in scores])
    shared = {"name": scores[0].name, "measure": measure}
    resampled = _resample(score, statistics, samples["bootstrap"])
    intervals = [estimate_ci(row) for row in resampled]
    trials, others = samples["approximate_randomisation"], range(1, len(systems))
    exchanged = [randomisation_p(score, statistics[0], other, trials) for other in statistics[1:]]
    bootstrapped = _signature(**shared, seed=_seed(), bs=samples["bootstrap"])
    differences = resampled[1:] - resampled[0]
    return {
        "bootstrap": {
            "signatures": [bootstrapped for _ in systems],
            "scores": observed.tolist(),
            "p": [None] + [bootstrap_p(observed[[0, other]], resampled[[0, other]]) for other in others],
            "mean": [float(mean) for mean, _ in intervals],
            "ci": [float(ci) for _, ci in intervals],
            "error": [None, *np.std(differences, axis=1).tolist()],
            "interval": [None, *np.quantile(differences, (0.025, 0.975), axis=1).T.tolist()],
        },
        "approximate_randomisation": {
            "signatures": [None] + [_ar_signature(k, trials, shared) for _, k in exchanged],
            "scores": observed.tolist(),
            "p": [None] + [p for p, _ in exchanged],
        },
    }


def measured_scores(
    metric: str, systems: list[list[str]], references: list[str], resamples: int = 0, scorer: Scorer = PLAIN
) -> tuple[list[float], np.ndarray, str]:
    """(score of each system, scores of its resamples (systems, resamples), signature of the metric).

    Every system has the same resamples of segments: those of the bootstrap of `segment_tests`. resamples: 0 for none.
    """
    measure, statistics = _statistics(metric, systems, references, scorer)
    found = [measure._compute_score_from_stats(rows.sum(axis=0).tolist()) for rows in statistics]
    resampled = _resample(_scorer(measure), statistics, resamples) if resamples else np.empty((len(systems), 0))
    return [one.score for one in found], resampled, f"{found[0].name}|{measure.get_signature()}"


def randomisation_p(score: Callable, ours: np.ndarray, theirs: np.ndarray, trials: int) -> tuple[float, int | None]:
    """(two-sided p of approximate randomisation, number k of segments if all exchanges were counted, else None).

    score: sums of statistics (n, S) -> scores (n,). ours, theirs: statistics of N segments (N, S).
    An exchange swaps the hypotheses of some segments between the two systems. p is the share of exchanges whose
    difference in score is at least as large as the observed difference.
    Only the k segments with different statistics are exchanged, because exchanging the others changes no score. If
    there are at most max(EXACT, trials) exchanges, all 2^k are counted. Otherwise `trials` exchanges are drawn, and p
    is (count + 1) / (trials + 1).
    Source: Noreen 1989; Riezler & Maxwell 2005, figure 1.
    """
    differing = np.flatnonzero((ours != theirs).any(axis=1))
    gain, sums = (theirs - ours)[differing], (ours.sum(axis=0), theirs.sum(axis=0))

    def differences(exchanged: np.ndarray) -> np.ndarray:
        moved = exchanged.astype(np.float64) @ gain  # (n, S)
        return np.abs(score(sums[0] + moved) - score(sums[1] - moved))

    (observed,) = differences(np.zeros((1, len(differing))))
    exact = 2 ** len(differing) <= max(EXACT, trials)
    exchanges = _all_exchanges(len(differing)) if exact else _drawn_exchanges(len(ours), differing, trials)
    counted = np.concatenate([differences(rows) >= _least(observed) for rows in exchanges])
    return (float(counted.mean()), len(differing)) if exact else ((int(counted.sum()) + 1) / (trials + 1), None)


def bootstrap_p(observed: np.ndarray, resampled: np.ndarray) -> float:
    """p of the paired bootstrap. observed: scores of two systems (2,); resampled: scores of their resamples (2, n).

    A resample counts if its |difference| minus the mean |difference| of all resamples is at least as large as the
    observed |difference|. sacreBLEU and the Moses toolkit use the same p. Only the upper tail counts, so for a clear
    difference p is about half of a two-sided p: the randomisation test is better, and no verdict uses the bootstrap.
    Source: Riezler & Maxwell 2005, figure 2, after Noreen 1989. (The p of Koehn 2004 is a different one.)
    """
    differences = np.abs(resampled[1] - resampled[0])
    counted = differences - differences.mean() >= _least(abs(observed[1] - observed[0]))
    return (int(counted.sum()) + 1) / (counted.size + 1)


def _least(observed: float) -> float:
    """The smallest difference that counts as large as the observed one, with a tolerance for rounding."""
    return observed - ROUNDING * max(1.0, observed)


def _statistics(metric: str, systems: list[list[str]], references: list[str], scorer: Scorer) -> tuple:
    """(metric of sacreBLEU, statistics of the segments (N, S) of each system)."""
    measure = scorer.metric(metric, [references])
    # the sums over segments are whole numbers, exact in float64
    return measure, [np.array(measure._extract_corpus_statistics(lines, None), dtype=np.float64) for lines in systems]


def _scorer(measure) -> Callable[[np.ndarray], np.ndarray]:
    def score(sums: np.ndarray) -> np.ndarray:
        rows, places = np.unique(sums, axis=0, return_inverse=True)
        scores = np.array([measure._compute_score_from_stats(row).score for row in rows.tolist()])
        return scores[places.reshape(-1)]

    return score


def _all_exchanges(segments: int) -> Iterator[np.ndarray]:
    """Yield half of the 2^k exchanges, (n, k), in which the last segment is not exchanged.

    The other half are their complements, which give the same |difference| because the two systems change roles.
    """
    for start in range(0, total := 2 ** max(segments - 1, 0), ROWS_AT_A_TIME):
        numbers = np.arange(start, min(start + ROWS_AT_A_TIME, total))
        yield numbers[:, None] >> np.arange(segments) & 1


def _drawn_exchanges(segments: int, differing: np.ndarray, trials: int) -> Iterator[np.ndarray]:
    """Yield `trials` exchanges, (n, k). They are drawn as in sacreBLEU: one bit per segment."""
    draw = np.random.default_rng(_seed())
    for start in range(0, trials, ROWS_AT_A_TIME):
        rows = draw.integers(2, size=(min(ROWS_AT_A_TIME, trials - start), segments), dtype=bool)
        yield ~rows[:, differing]  # sacreBLEU's bit keeps a segment


def _resample(score: Callable, statistics: list[np.ndarray], resamples: int) -> np.ndarray:
    """Scores (systems, resamples). All systems have the same resamples, which are drawn as in sacreBLEU."""
    draw, segments = np.random.default_rng(_seed()), len(statistics[0])
    scores = []
    for start in range(0, resamples, ROWS_AT_A_TIME):
        rows = draw.choice(segments, size=(min(ROWS_AT_A_TIME, resamples - start), segments), replace=True)
        counts = np.stack([np.bincount(row, minlength=segments) for row in rows]).astype(np.float64)
        scores.append([score(counts @ rows) for rows in statistics])
    return np.concatenate(scores, axis=1)


def _seed() -> int | None:
    """sacreBLEU's seed; None: a different seed for each draw."""
    seed = os.environ.get("SACREBLEU_SEED", "12345")
    return None if seed.lower() == "none" else int(seed)


def _ar_signature(segments: int | None, trials: int, shared: dict) -> str:
    """segments: k, if all 2^k exchanges were counted; None, if trials were drawn."""
    if segments is not None:
        return _signature(**shared, ar=f"exact_2^{segments}")
    return _signature(**shared, seed=_seed(), ar=trials)


def _signature(name: str, measure, **test) -> str:
    signature = measure.get_signature()
    for key, value in test.items():
        signature.update(key, str(value).lower())
    return f"{name}|{signature}"


def paired_t(ours: list[float], theirs: list[float]) -> dict:
    """Two-sided paired t-test over seeds: {"t", "degrees_of_freedom", "p"}.

    t and p are None if all differences are equal up to rounding.
    """
    from scipy.stats import ttest_rel

    differences = np.subtract(ours, theirs)
    degrees = len(differences) - 1
    if _constant(differences):
        return {"t": None, "degrees_of_freedom": degrees, "p": None}
    result = ttest_rel(ours, theirs)
    return {"t": float(result.statistic), "degrees_of_freedom": degrees, "p": float(result.pvalue)}


def welch_t(ours: list[float], theirs: list[float]) -> dict:
    """Two-sided t-test of Welch over unpaired runs, at least two per system. Returns the keys of `paired_t`.

    The systems may have different variances and different numbers of runs. All three values are None if the scores of
    neither system vary. Source: Welch 1947.
    """
    from scipy.stats import ttest_ind

    if _constant(ours) and _constant(theirs):
        return {"t": None, "degrees_of_freedom": None, "p": None}
    result = ttest_ind(ours, theirs, equal_var=False)
    return {"t": float(result.statistic), "degrees_of_freedom": float(result.df), "p": float(result.pvalue)}


def _constant(values) -> bool:
    """Whether all values are equal up to rounding."""
    return bool(np.ptp(values) <= ROUNDING * max(1.0, np.abs(values).max()))


def holm(p_values: list[float | None]) -> list[float | None]:
    """The p-values after Holm's correction for m tests, in the same order. None (no test) stays None.

    The i-th smallest p, counted from 0, is multiplied by m - i. The result is at least the corrected value before it,
    and at most 1. Source: Holm 1979.
    """
    tested = [index for index, p in enumerate(p_values) if p is not None]
    corrected, largest = [None] * len(p_values), 0.0
    for rank, index in enumerate(sorted(tested, key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(tested) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected
