"""Scores by sacreBLEU, never without their signature."""

import os

from sacrebleu.metrics import BLEU, CHRF, TER

from fairseq_kd.errors import KDError

METRICS = {"bleu": BLEU, "chrf": CHRF, "ter": TER}
LOWER_IS_BETTER = {"ter"}


def score(hypotheses: list[str], references: list[str], resamples: int = 0) -> dict:
    """BLEU, chrF and TER of detokenised text against one reference each, all 0 to 100 (TER can be larger).

    resamples: of sacreBLEU's bootstrap; 0 for no intervals. Its seed is the environment variable SACREBLEU_SEED, 12345
    where that is not set.
    Returns {"bleu" | "chrf" | "ter": {"score", "signature", "verbose"}}, with intervals also "mean" (of the resamples)
    and "ci": half the width of the interval that holds 95 % of them.
    """
    assert len(hypotheses) == len(references), f"{len(hypotheses)} hypotheses, {len(references)} references"
    return {name: score_by(name, hypotheses, references, resamples) for name in METRICS}


def score_by(name: str, hypotheses: list[str], references: list[str], resamples: int = 0) -> dict:
    """One entry of `score`."""
    metric = METRICS[name]()
    result = metric.corpus_score(hypotheses, [references], n_bootstrap=resamples)
    found = {
        "score": result.score,
        "signature": f"{result.name}|{metric.get_signature()}",
        "verbose": str(result),
    }
    return found | ({"mean": float(result._mean), "ci": float(result._ci)} if resamples > 1 else {})


def check_seed(of_tests: bool = False) -> None:
    """Raises KDError when SACREBLEU_SEED is neither a number nor "none"; for paired tests it must not be 0 either."""
    seed = os.environ.get("SACREBLEU_SEED", "12345")
    if seed.lower() != "none" and not seed.isdecimal():
        raise KDError(f"SACREBLEU_SEED is {seed!r}: sacreBLEU takes a number from 0, or none for another one each time")
    if of_tests and seed.isdecimal() and int(seed) == 0:
        raise KDError("SACREBLEU_SEED is 0: sacreBLEU's paired tests draw another seed each time then; take 1 or more")
