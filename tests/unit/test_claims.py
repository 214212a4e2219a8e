import json
import re

import numpy as np
import pytest
from claims_helpers import judge, judged
from report_helpers import finish_stage, plan_of, write_comparison

from fairseq_kd.core.errors import KDError
from fairseq_kd.study.claims import KINDS, Kind, Outcome, claim_results, register
from fairseq_kd.study.claims.crossing import crossings
from fairseq_kd.study.show import write_results

FACTORS = {"method": ["ce", "word", "seq"], "noise": [0, 10, 30], "seed": [1, 2, 3]}


def p_of(t: float) -> float:
    """Two-sided p of the t distribution with two degrees of freedom, worked by hand."""
    return 1 - t / (t**2 + 2) ** 0.5


DROPS = {
    ("seq", 0): [50, 50, 50],  # loses 2, 1.5, 3
    ("seq", 30): [48, 48.5, 47],
    ("word", 0): [50, 50, 50],  # loses 5, 5.5, 6: 3, 4, 3 more than seq
    ("word", 30): [45, 44.5, 44],
}


@pytest.mark.parametrize(
    ("claim", "estimate", "t", "verdict"),
    [
        # differences -3, -4, -3: mean -10 / 3, standard deviation 1 / sqrt 3, standard error 1 / 3, t = -10
        ("drop(seq, noise 0 -> 30) < drop(word, noise 0 -> 30) by bleu", -10 / 3, 10, "supported"),
        ("drop(seq, noise 0 -> 30) > drop(word, noise 0 -> 30) by bleu", -10 / 3, 10, "refuted"),
        # 4, 3, 6 percent and 10, 11, 12 percent
        ("relative drop(seq, noise 0 -> 30) < relative drop(word, noise 0 -> 30) by bleu", -20 / 3, 10, "supported"),
        ("difference(seq, word at noise 30) > difference(seq, word at noise 0) by bleu", 10 / 3, 10, "supported"),
        # losses of word 5, 5.5, 6: mean 5.5, standard error 0.5 / sqrt 3
        ("drop(word, noise 0 -> 30) > 3 by bleu", 2.5, 2.5 / (0.5 / 3**0.5), "supported"),
        # a lower TER is better: its "drop" from 50 to 48 is a gain
        ("drop(word, noise 0 -> 30) < 3 by ter", -8.5, 8.5 / (0.5 / 3**0.5), "supported"),
    ],
)
def test_drops_and_differences_worked_by_hand(tmp_path, claim, estimate, t, verdict):
    (found,) = judged(tmp_path, [claim], DROPS)
    assert found.estimate == pytest.approx(estimate) and found.p == pytest.approx(p_of(t))
    assert (found.verdict, found.test) == (verdict, "paired t-test over 3 seeds")
    assert found.p_holm == found.p and found.level == 0.05


def test_a_drop_that_is_not_decided_says_what_would_have_been_found(tmp_path):
    scores = DROPS | {("word", 30): [48.5, 47.9, 47]}  # loses 1.5, 2.1, 3
    (found,) = judged(tmp_path, ["drop(seq, noise 0 -> 30) < drop(word, noise 0 -> 30) by bleu"], scores)
    # differences 0.5, -0.6, 0: mean -0.0333, standard deviation 0.5508; 3.2640 of it (statsmodels, 3 seeds)
    assert found.detectable == pytest.approx(3.264043552819638 * np.std([0.5, -0.6, 0], ddof=1), rel=1e-3)
    assert found.sentence == (
        "not decided: drop(seq, noise 0 -> 30) is 2.17 and drop(word, noise 0 -> 30) is 2.20, the difference is -0.03 "
        "BLEU (95 % interval -1.40 to 1.33); with 3 seeds this study would have found a difference of 1.80 or more."
    )


def test_a_relative_drop_from_zero_is_not_defined(tmp_path):
    claim = "relative drop(seq, noise 0 -> 30) < 5 by bleu"
    (found,) = judged(tmp_path, [claim], DROPS | {("seq", 0): [0, 1, 2]})
    assert found.verdict == "undecided" and found.p is None
    assert found.sentence == "not decided: a score is 0, so a relative drop is not defined."


FALLING = {("ce", 0): [30, 31, 30], ("ce", 10): [28, 29, 29], ("ce", 30): [26, 25, 26]}


@pytest.mark.parametrize(("direction", "verdict"), [("falls", "supported"), ("rises", "refuted")])
def test_a_trend_worked_by_hand(tmp_path, direction, verdict):
    """Of three levels the slope is half of the last minus the first: -2, -3, -2; t = -7."""
    (found,) = judged(tmp_path, [f"bleu {direction} with noise at method ce"], FALLING)
    assert found.estimate == pytest.approx(-7 / 3) and found.p == pytest.approx(p_of(7))
    assert (found.verdict, found.test) == (verdict, "paired t-test over 3 seeds, of the slope")
    assert "BLEU is 30.33, 28.67, 25.67 at noise 0, 10, 30, the mean change per step is -2.33" in found.sentence


def test_slopes_are_those_of_a_least_squares_line():
    from fairseq_kd.study.claims.trend import slope

    scores = np.random.default_rng(1).normal(size=(5, 4))
    assert slope(list(scores)) == pytest.approx(np.polyfit(np.arange(5), scores, 1)[0])


def test_a_trend_with_a_step_the_other_way_is_not_supported(tmp_path):
    scores = FALLING | {("ce", 10): [32, 31, 31]}
    (found,) = judged(tmp_path, ["bleu falls with noise at method ce"], scores)
    assert found.p < 0.05 and found.verdict == "undecided"
    assert "The means go the other way from 0 to 10" in found.sentence


@pytest.mark.parametrize(
    ("differences", "margin", "p", "verdict"),
    [
        # mean 0.1, standard error 0.1 / sqrt 3: t = -0.4 / that = -6.93; one-sided p is half
        ([0.1, 0.2, 0.0], 0.5, p_of(0.4 / (0.1 / 3**0.5)) / 2, "supported"),
        ([2.9, 3.0, 3.1], 1.0, p_of(2 / (0.1 / 3**0.5)), "refuted"),
        ([-2.9, -3.0, -3.1], 1.0, p_of(2 / (0.1 / 3**0.5)), "refuted"),
        ([0.4, 0.5, 0.3], 0.5, p_of(0.1 / (0.1 / 3**0.5)) / 2, "undecided"),
        ([0.1, -0.1, -0.2], 0.5, 0.01950617387952779, "supported"),  # statsmodels 0.15.0, ttost_paired
    ],
)
def test_equivalence_worked_by_hand(tmp_path, differences, margin, p, verdict):
    scores = {("word", 0): [30 + value for value in differences], ("ce", 0): [30, 30, 30]}
    (found,) = judged(tmp_path, [f"word = ce within {margin} by bleu"], scores)
    assert found.p == pytest.approx(p, rel=1e-6) and found.verdict == verdict
    assert found.estimate == pytest.approx(np.mean(differences))
    if verdict == "undecided":
        assert re.search(r"would have found equivalence within a margin of 0\.\d\d or more, if there", found.sentence)


BEST = {("ce", 0): [20, 20, 20], ("word", 0): [21, 22, 23], ("seq", 0): [28, 27, 29]}


def test_best_of_several_has_the_largest_p_of_its_tests(tmp_path):
    """seq - ce is 8, 7, 9: t = 8 sqrt 3; seq - word is 7, 5, 6: t = 6 sqrt 3."""
    found, refuted = judged(tmp_path, ["seq is best of method by bleu", "word is best of method by bleu"], BEST)
    assert found.p == pytest.approx(p_of(6 * 3**0.5)) and found.verdict == "supported"
    assert found.estimate == 6 and "the closest rival of method=seq is method=word" in found.sentence
    # seq is better than word with the same p, times two for two others
    assert refuted.p == pytest.approx(2 * p_of(6 * 3**0.5)) and refuted.verdict == "refuted"
    assert [round(one.p_holm / p_of(6 * 3**0.5), 6) for one in (found, refuted)] == [2, 2]


def test_best_of_its_noise_is_best_at_each_noise(tmp_path):
    worse = {("ce", 10): [20, 20, 20], ("word", 10): [25, 24, 26], ("seq", 10): [24, 23.5, 24.5]}
    (found,) = judged(tmp_path, ["seq is best of its noise by bleu"], BEST | worse)
    assert "the closest rival of method=seq,noise=10 is method=word,noise=10, the difference is -1.00" in found.sentence
    # -1, -0.5, -1.5: t = 1 / (0.5 / sqrt 3) = 2 sqrt 3; of four others
    assert found.p == pytest.approx(4 * p_of(2 * 3**0.5)) and found.verdict == "undecided"


def test_cells_may_be_on_both_sides_of_different_differences(tmp_path):
    """The strategy has no effect on ce, so both sides have its cells, and they cancel."""
    factors = {"method": ["ce", "seq"], "strategy": ["beam", "greedy"], "noise": [0, 10]}
    claims = [
        "difference(seq, ce at strategy beam) > difference(seq, ce at strategy greedy) at noise 0 by bleu",
        "seq is best of its strategy at noise 0 by bleu",
    ]
    for claim in plan_of(tmp_path, factors=factors, claims=claims).claims:
        cells = {name: cell for name, ((cell, _),) in claim["systems"].items()}
        assert len(cells) == 4 and len(set(cells.values())) == 3


def gains(**by_noise):
    """Scores where seq - word is as given: n0=[...], n10=[...]."""
    scores = {}
    for name, values in by_noise.items():
        scores["word", int(name[1:])] = [30.0] * len(values)
        scores["seq", int(name[1:])] = [30.0 + value for value in values]
    return scores


def test_a_crossing_worked_by_hand(tmp_path):
    """The difference is -4 + 8/30 x with the standard error 0.5 / sqrt 3 at each x: 0 at x = 15.

    The two cannot be told apart where the difference is below 4.3027 of that: 15 ± 1.2421 · 30 / 8.
    """
    scores = gains(n0=[-4, -3.5, -4.5], n30=[4, 4.5, 3.5])
    found, other = judged(
        tmp_path, ["crossing(word, seq; noise) by bleu", "crossing(seq, word; noise) by bleu"], scores
    )
    half = 4.302652729911275 * 0.5 / 3**0.5 * 30 / 8
    for one in (found, other):
        assert (one.verdict, one.p, one.estimate) == ("crossing", None, pytest.approx(15))
        assert one.interval == pytest.approx([15 - half, 15 + half])
        assert "seq becomes better than word at noise 15 (95 % interval 10.34 to 19.66)" in one.sentence


@pytest.mark.parametrize(
    ("scores", "verdict", "said"),
    [
        (gains(n0=[4, 4.5, 3.5], n30=[2, 2.1, 1.9]), "no crossing", "seq is better than word at each noise"),
        (gains(n0=[-4, -4.1, -3.9], n10=[4, 4.1, 3.9], n30=[-4, -4.1, -3.9]), "several crossings",
         "word and seq change places at noise 5, 20"),
        (gains(n0=[-1, 1, -2], n30=[2, -1, 2]), "undecided", "The interval reaches an end of the values of noise"),
        (gains(n0=[-1, 1, -2], n30=[8, 9, 7.5]), "undecided", "The interval reaches an end of the values of noise"),
        (gains(n0=[1, -1, 1], n30=[2, -1, 2]), "undecided", "with 3 seeds this study would have found a difference of"),
        (gains(n0=[0, 0, 0], n30=[0, 0, 0]), "undecided", "word and seq score the same at each noise"),
    ],
)  # fmt: skip
def test_no_crossing_and_several_are_results(tmp_path, scores, verdict, said):
    (found,) = judged(tmp_path, ["crossing(word, seq; noise) by bleu"], scores)
    assert found.verdict == verdict and said in found.sentence and found.p_holm is None


def test_sign_changes_of_a_piecewise_linear_function():
    assert crossings(np.array([0, 10, 30]), np.array([-1, 1, -3])) == pytest.approx([5, 15])
    assert crossings(np.array([0, 10, 20, 30]), np.array([-1, 0, 0, 2])) == [15]
    assert crossings(np.array([0, 10, 30]), np.array([-1, 0, -2])) == crossings(np.array([0, 1]), np.zeros(2)) == []


def test_the_interval_of_a_crossing_holds_the_true_one(tmp_path):
    """Seeds of a normal distribution around -1 + 2x: the share of intervals with 0.5 is 95 %."""
    from scipy.stats import binom

    from fairseq_kd.study.claims.crossing import _compare

    draw, levels, trials = np.random.default_rng(4), np.array([0.0, 1.0]), 150
    held = 0
    for _ in range(trials):
        points, states, _ = _compare(levels, draw.normal([[-1.0], [1.0]], 0.4, (2, 3)), None)
        held += int(states[np.abs(points - 0.5).argmin()] == 0)
    assert binom.ppf(0.001, trials, 0.95) <= held <= binom.ppf(0.999, trials, 0.95)


def test_noise_of_the_test_set_is_a_factor_of_claims(tmp_path):
    scores = {("seq", 0, 0): [30, 31, 32], ("seq", 0, 10): [29, 30, 30]} | {
        ("word", 0, level): [score - level for score in (28, 29, 30)] for level in (0, 10)
    }
    claims = ["drop(seq, test-noise 0 -> 10) < drop(word, test-noise 0 -> 10) by bleu"]
    (found,) = judged(tmp_path, claims, scores, evaluate={"noise": [0, 10]})
    assert found.estimate == pytest.approx(4 / 3 - 10)  # losses 1, 1, 2 and 10


def test_one_seed_is_tested_over_segments_by_the_bootstrap_of_the_whole_statistic(tmp_path):
    resampled = {("seq", 0): [30, 31, 29, 30], ("seq", 30): [29, 29, 28, 30]}
    resampled |= {("word", 0): [30, 30, 30, 30], ("word", 30): [27, 27, 28, 29]}
    scores = {key: [np.mean(values)] for key, values in resampled.items()}
    claim = "drop(seq, noise 0 -> 30) < drop(word, noise 0 -> 30) by bleu"
    (found,) = judged(tmp_path, [claim], scores, resampled)
    # losses of seq 1, 2, 1, 0 and of word 3, 3, 2, 1: differences -2, -1, -1, -1; 2 (0 + 1) / (4 + 1)
    assert found.estimate == pytest.approx(-1.25) and found.p == pytest.approx(0.4)
    assert found.test == "paired bootstrap over 200 segments" and found.verdict == "undecided"
    assert "with 200 segments this study would have found a difference of" in found.sentence


def test_holm_is_over_all_kinds_and_the_level_of_the_power_is_that_of_the_undecided(tmp_path):
    scores = DROPS | {("ce", 0): [49.0, 51.5, 50.2], ("ce", 30): [44.0, 47.0, 44.0]}
    claims = [
        "drop(seq, noise 0 -> 30) < drop(word, noise 0 -> 30) by bleu",
        "ce > seq at noise 0 by bleu",
        "word = ce within 0.5 at noise 0 by bleu",
        "crossing(word, seq; noise) by bleu",
    ]
    drop, comparison, equivalence, crossing = judged(tmp_path, claims, scores)
    assert drop.p_holm == pytest.approx(3 * p_of(10)) and drop.level == pytest.approx(0.05 / 3)
    assert comparison.verdict == equivalence.verdict == "undecided"
    assert comparison.level == equivalence.level == 0.025 and crossing.level == 0.05
    # 0.2333 ± 4.3027 · 1.25033 / sqrt 3
    assert comparison.interval == pytest.approx([-2.8727, 3.3393], abs=1e-4)


def test_results_json_has_the_verdicts(tmp_path):
    judged(tmp_path, ["seq is best of method by bleu"], BEST)
    (claim,) = json.loads((tmp_path / "results.json").read_text())["claims"]
    assert claim["verdict"] == "supported" and claim["sentence"].startswith("supported: the closest rival")
    assert {"estimate", "interval", "p", "p_holm", "test", "detectable", "level", "state"} <= claim.keys()


@pytest.mark.parametrize(
    ("error", "said"), [(0.26, "with 1,000 segments"), (0.0, "do not vary, so"), (None, "of an earlier version")]
)
def test_a_comparison_over_segments_has_the_power_of_its_bootstrap(tmp_path, error, said):
    plan = plan_of(tmp_path, claims=["seq > word by bleu"], factors={"method": ["ce", "word", "seq"]})
    (claim,) = plan.claims
    finish_stage(plan, tmp_path, claim["compare"], 1.0)
    write_comparison(tmp_path, claim["compare"], seeds=1, p=0.4, difference=0.21)
    path = tmp_path / "stages" / claim["compare"] / "comparison.json"
    content = json.loads(path.read_text())
    if error is not None:
        content["systems"][1]["scatter"] = {"error": [error], "interval": [[-0.3, 0.72]]}
        path.write_text(json.dumps(content))
    (found,) = write_results(plan, tmp_path)["claims"]
    assert found["verdict"] == "undecided" and said in found["sentence"]
    if error:
        assert found["detectable"] == pytest.approx((1.959964 + 0.841621) * 0.26, rel=1e-4)
        assert found["interval"] == [-0.3, 0.72] and "(95 % interval -0.30 to 0.72)" in found["sentence"]


def test_the_stage_of_a_comparison_is_the_one_of_version_0_1_0(tmp_path):
    """The request of a plan that was made before there were other kinds of claims."""
    plan = plan_of(tmp_path, claims=["seq > word by bleu"], factors={"method": ["ce", "word", "seq"]})
    stage = plan.stages[plan.claims[0]["compare"]]
    words = [word for word in stage.command if not word.startswith("@")]
    assert " ".join(words) == "fairseq-kd compare --system method=word --system method=seq --metric bleu --out"


@pytest.mark.parametrize(
    ("claim", "said"),
    [
        ("drop(seq, nose 0 -> 30) < drop(word, noise 0 -> 30) by bleu", "unknown factor 'nose'; the nearest"),
        ("drop(seq, noise 0 -> 31) < 2 by bleu", "no factor has the value '31'; the nearest is '30'"),
        ("drop(seq, noise 0 - 30) < 3 by bleu", "is not of the form SIDE < SIDE"),
        ("drop(seq, noise 0 -> 30) < 1.2.3 by bleu", "'1.2.3' is neither"),
        ("drop(seq, noise 0 -> 0) > 3 by bleu", "with itself: noise has no effect there"),
        ("drop(seq, noise 0 -> 30) > drop(seq, noise 0 -> 30) by bleu", "with itself; name other cells"),
        ("drop(seq, noise 0 -> 30) > difference(0, 30 at method seq) by bleu", "with itself; name other cells"),
        ("relative drop(seq, noise 0 -> 30) < drop(ce, noise 0 -> 30) by bleu", "percent with BLEU, which have no"),
        ("drop(0, noise 0 -> 30) < 1 by bleu", "would be lost; name a value of another factor"),
        ("bleu falls with method", "method has values that are not numbers"),
        ("bleu falls with nois at method ce", "unknown factor 'nois'"),
        ("bleurt falls with noise at method ce", "unknown metric 'bleurt'"),
        ("bleu falls with noise", "both agree with {'noise': 0}"),
        ("bleu falls with noise at method ce by bleu", "by bleu has no effect"),
        ("bleu falls with test-noise at method ce, noise 0", "test-noise has 1 value for these cells"),
        ("crossing(word, seq; method) by bleu", "varies method, so one of its values would be lost"),
        ("crossing(word, word; noise) by bleu", "with itself: method has no effect there"),
        ("crossing(word, seq) by bleu", "is not of the form crossing(A, B; FACTOR)"),
        ("crossing(ce, seq; strategy) by bleu", "unknown factor 'strategy'"),
        ("word = ce within 0 at noise 0 by bleu", "the margin must be a number above 0, found '0'"),
        ("word = ce within -1 at noise 0 by bleu", "the margin must be a number above 0, found '-1'"),
        ("word = ce within inf at noise 0 by bleu", "the margin must be a number above 0, found 'inf'"),
        ("word = word within 1 at noise 0 by bleu", "with itself: method has no effect there"),
        ("word = ce by bleu", "is not of the form A = B within MARGIN"),
        ("wrd is best of method at noise 0 by bleu", "no factor has the value 'wrd'"),
        ("word is best of its method by bleu", "would be lost; leave out `its`"),
        ("seq >= word by bleu", "is not of the form A > B"),
        ("seq > word at noise 0, test-noise 11 by bleu", "no factor has the value '11'"),
    ],
)
def test_a_claim_that_cannot_be_tested_is_one_error_before_anything_runs(tmp_path, claim, said):
    with pytest.raises(KDError) as caught:
        plan_of(tmp_path, factors=FACTORS, claims=[claim])
    assert said in str(caught.value) and "\n" not in str(caught.value) and "claim 1" in str(caught.value)


@pytest.mark.parametrize(
    ("factors", "exclude", "claim", "said"),
    [
        ({"noise": [10]}, [], "bleu falls with noise at method ce", "noise has 1 value for these cells"),
        ({}, [{"method": "seq", "noise": 30}], "drop(seq, noise 0 -> 30) < 2 by bleu", "has no cell with"),
        ({}, [{"method": "seq", "noise": 30}], "crossing(word, seq; noise) by bleu", "the same values of noise"),
        ({}, [{"method": ["word", "seq"]}], "ce is best of method at noise 0 by bleu", None),
        ({}, [{"method": "ce", "seed": 3, "noise": 10}], "bleu falls with noise at method ce", "the same seeds"),
    ],
)
def test_missing_cells_are_one_error(tmp_path, factors, exclude, claim, said):
    with pytest.raises(KDError) as caught:
        plan_of(tmp_path, factors=FACTORS | factors, exclude=exclude, claims=[claim])
    assert said is None or said in str(caught.value)


def test_every_kind_of_claim_is_on_the_page_and_a_new_one_is_one_object(tmp_path):
    class Longest(Kind):
        """The example of a new kind."""

        name, form, hint, pattern = "longest", "A is long", re.compile("is long"), re.compile(r"(?P<value>\S+) is long")

        def read(self, finder, found):
            from fairseq_kd.study.claims import Claim

            on = finder.evaluation_set(None)
            wanted = {"method": finder.value_of("method", found["value"], on), "noise": 0}
            return Claim(finder.text, self.name, "bleu", on, finder.systems(on, [wanted]))

        def judge(self, claim, measured):
            return Outcome("long", "none", verdict="supported")

    try:
        register(Longest)
        KINDS.update({"comparison": KINDS.pop("comparison")})
        plan = plan_of(tmp_path, factors=FACTORS, claims=["seq is long"])
        scores = {("seq", 0): [1, 2, 3]}
        (found,) = judge(plan, tmp_path, scores)
        assert (found.kind, found.verdict, found.sentence) == ("longest", "supported", "supported: long.")
    finally:
        del KINDS["longest"]


def test_a_claim_that_is_not_tested_yet_has_no_figures(tmp_path):
    claim = {"text": "a > b by bleu", "kind": "comparison", "comparison": None, "state": "waiting"}
    waiting, failed = claim_results([claim, claim | {"state": "failed"}], tmp_path)
    assert (waiting.verdict, waiting.test, waiting.p) == ("not tested yet", None, None)
    assert failed.verdict == "the test failed"
