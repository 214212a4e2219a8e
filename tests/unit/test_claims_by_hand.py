"""The verdicts of a study from its result files, against sacreBLEU, numpy and scipy alone."""

import json

import numpy as np
import pytest
from claims_helpers import compare_results
from report_helpers import finish_stage, plan_of
from result_helpers import references, translations, write_result
from sacrebleu.metrics import BLEU, CHRF
from scipy.stats import ttest_1samp

from fairseq_kd.study.claims import read_claim_results
from fairseq_kd.study.show import write_results

MARGIN = 4
CLAIMS = {
    "seq > word at noise 0 by bleu": (("seq", 0, 1), ("word", 0, -1)),
    "drop(seq, noise 0 -> 30) < drop(word, noise 0 -> 30) by bleu": (
        *(("seq", 0, 1), ("seq", 30, -1)),
        *(("word", 0, -1), ("word", 30, 1)),
    ),
    f"word = ce within {MARGIN} at noise 0 by chrf": (("word", 0, 1), ("ce", 0, -1)),
    "bleu rises with noise at method ce": (("ce", 30, 1), ("ce", 0, -1)),  # the slope of two values is their difference
}
NEGATIVE = "drop("  # this claim says that the sum is below 0
ERRORS = {("ce", 0): 0.28, ("word", 0): 0.30, ("seq", 0): 0.24, ("ce", 30): 0.5, ("word", 30): 0.62, ("seq", 30): 0.27}
RESAMPLES = 300


def judged_by_hand(results: dict) -> dict:
    """claim -> (estimate, p, verdict). results: (method, noise) -> results, one per seed in the same order."""
    found = {claim: _tested(claim, terms, results) for claim, terms in CLAIMS.items()}
    order, largest, judged = sorted(found, key=lambda claim: found[claim][1]), 0.0, {}
    for rank, claim in enumerate(order):  # Holm 1979
        estimate, p = found[claim]
        largest = max(largest, p * (len(order) - rank))
        holds = abs(estimate) < MARGIN if " = " in claim else (estimate < 0) == claim.startswith(NEGATIVE)
        judged[claim] = estimate, p, ("supported" if holds else "refuted") if largest < 0.05 else "undecided"
    return judged


def _tested(claim: str, terms: tuple, results: dict) -> tuple[float, float]:
    """(the sum of the claim's terms, p)."""
    metric = CHRF() if "chrf" in claim else BLEU()
    seeds = range(len(results["ce", 0]))
    sums = [[_sums(metric, results[method, noise][seed]) for method, noise, _ in terms] for seed in seeds]
    signs = [sign for *_, sign in terms]
    values = np.array([_value(metric, signs, [one.sum(0) for one in of_seed]) for of_seed in sums])
    if len(values) > 1:
        sides = [ttest_1samp(values, -MARGIN, alternative="greater"), ttest_1samp(values, MARGIN, alternative="less")]
        largest = max(side.pvalue for side in sides)
        return values.mean(), largest if " = " in claim else ttest_1samp(values, 0).pvalue
    draw, (of_seed,), (value,) = np.random.default_rng(7), sums, values
    if claim.startswith("seq > word"):  # approximate randomisation: segments change sides
        swapped = [draw.random(len(of_seed[0])) < 0.5 for _ in range(RESAMPLES)]
        pairs = [[np.where(swap[:, None], *of_seed[::way]).sum(0) for way in (1, -1)] for swap in swapped]
        return value, np.mean([abs(_value(metric, signs, pair)) >= abs(value) for pair in pairs])
    chosen = [draw.integers(0, len(of_seed[0]), len(of_seed[0])) for _ in range(RESAMPLES)]
    again = np.array([_value(metric, signs, [one[rows].sum(0) for one in of_seed]) for rows in chosen])
    if " = " in claim:
        return value, max(np.mean(again <= -MARGIN), np.mean(again >= MARGIN))
    return value, 2 * min(np.mean(again <= 0), np.mean(again >= 0))


def _sums(metric, result: dict) -> np.ndarray:
    """sacreBLEU's counts of each segment."""
    return np.array(metric._extract_corpus_statistics(result["hypotheses"], [result["references"]]))


def _value(metric, signs: list, sums: list) -> float:
    return sum(sign * metric._compute_score_from_stats(list(one)).score for sign, one in zip(signs, sums, strict=True))


@pytest.mark.parametrize("seeds", [3, 1])
def test_each_verdict_is_the_one_worked_by_hand_from_the_result_files(tmp_path, seeds):
    factors = {"noise": [0, 30], "method": ["ce", "word", "seq"]}
    factors |= {"seed": [1, 2, 3]} if seeds > 1 else {}
    plan, gold, results = plan_of(tmp_path, factors=factors, claims=list(CLAIMS)), references(40), {}
    for cell in plan.cells.values():
        key, stage = (cell["factors"]["method"], cell["factors"]["noise"]), cell["results"]["test"]
        finish_stage(plan, tmp_path, stage, 1.0)
        path = tmp_path / "stages" / stage / "result.json"
        seed = cell["factors"].get("seed", 1)
        write_result(path, translations(gold, ERRORS[key], seed), gold, seed)
        results.setdefault(key, []).append(json.loads(path.read_text()))
    compare_results(plan, tmp_path)
    expected = judged_by_hand(results)
    found = {one.text: one for one in read_claim_results(write_results(plan, tmp_path))}
    assert {claim: one.verdict for claim, one in found.items()} == {claim: one[2] for claim, one in expected.items()}
    for claim, (estimate, p, _) in expected.items():
        assert found[claim].estimate == pytest.approx(estimate, abs=1e-9), claim
        assert found[claim].p == pytest.approx(p, abs=1e-9 if seeds > 1 else 0.04), claim
    assert {"supported", "refuted"} <= {one[2] for one in expected.values()}
