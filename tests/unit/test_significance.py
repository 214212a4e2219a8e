import re
import subprocess
import sys

import numpy as np
import pytest
from result_helpers import references, translations

from fairseq_kd.evaluation.significance import holm, paired_t, segment_tests

GOLD = references()
BASE, OTHER = translations(GOLD, 0.4, seed=1), translations(GOLD, 0.35, seed=2)


@pytest.mark.parametrize(("test", "option"), [("bootstrap", "bs"), ("approximate_randomisation", "ar")])
def test_p_values_are_those_of_the_sacrebleu_command(tmp_path, test, option):
    for name, lines in (("gold", GOLD), ("base", BASE), ("other", OTHER)):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
    words = [sys.executable, "-m", "sacrebleu", "gold", "-i", "base", "other", "-m", "chrf", "-f", "text", "-w", "6"]
    words += [f"--paired-{option}", f"--paired-{option}-n", "1100"]  # its JSON fails for the bootstrap of chrF
    printed = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    numbers = [float(number) for number in re.findall(r"\d+\.\d+", printed.split("Paired")[0])]
    samples = {"bootstrap": 1100, "approximate_randomisation": 1100}
    ours = segment_tests("chrf", [BASE, OTHER], GOLD, samples)[test]
    assert ours["p"][0] is None
    found = [*ours["scores"], ours["p"][1]]
    if test == "bootstrap":  # score, mean and interval of each
        columns = zip(ours["scores"], ours["mean"], ours["ci"], strict=True)
        found = [number for row in columns for number in row] + [ours["p"][1]]
    assert found[:-1] == pytest.approx(numbers[:-1], abs=1e-5)  # it sums in float32
    assert len(found) == len(numbers)
    assert found[-1] == pytest.approx(numbers[-1], abs=1e-4)
    assert f"|{option}:1100|seed:12345|" in ours["signatures"][1]


def with_right_segments(count: int) -> list[str]:
    """BASE with the given number of wrong translations replaced by their references."""
    wrong = [number for number, line in enumerate(BASE) if line != GOLD[number]]
    return [GOLD[number] if number in wrong[:count] else line for number, line in enumerate(BASE)]


@pytest.mark.parametrize(("differing", "p"), [(0, 1.0), (1, 1.0), (3, 0.25)])
def test_approximate_randomisation_of_few_segments_is_no_surer_than_all_their_exchanges(differing, p):
    """All of them better: of the 2^k exchanges, two have a difference as large, counted by hand."""
    found = segment_tests(
        "bleu", [BASE, with_right_segments(differing)], GOLD, {"bootstrap": 50, "approximate_randomisation": 500}
    )
    assert found["approximate_randomisation"]["p"] == [None, p]
    assert found["bootstrap"]["p"][1] == 1.0 if differing == 0 else 0 < found["bootstrap"]["p"][1] < 1


def randomised(metric, ours, theirs, gold, trials=10_000) -> dict:
    samples = {"bootstrap": 10, "approximate_randomisation": trials}
    return segment_tests(metric, [ours, theirs], gold, samples)["approximate_randomisation"]


def test_segments_that_differ_in_text_alone_make_a_difference_no_surer():
    """A wrong word for another wrong word: of the two ways to exchange the last segment both are as far apart."""
    gold = ["a b c d e f"] * 8
    ours = ["a b c d e x"] * 8
    theirs = ["a b c d e y"] * 7 + ["a b c d e f"]
    for metric in ("bleu", "ter"):
        assert randomised(metric, ours, theirs, gold)["p"] == [None, 1.0]


def test_ter_of_300_segments_of_which_four_matter():
    """All four are better: of 2^4 exchanges none and all are as far apart, 2/16."""
    gold = ["a b c d e f"] * 300
    theirs = ["a b c d e f"] * 4 + ["a b c d e y"] * 296
    assert randomised("ter", ["a b c d e x"] * 300, theirs, gold, trials=2_000)["p"] == [None, 0.125]


def test_exchanges_that_are_as_far_apart_count():
    """TER of 18 segments: 12 have an edit less, 6 one more. By the binomial distribution of 18 exchanges of one edit

    P(|S| >= 6) = 2 (C(18, 0) + ... + C(18, 6)) / 2^18 = 62,360 / 262,144; without the ties it would be 0.0962.
    """
    gold, wrong = ["a b c d e f"] * 18, "a b c d e x"
    ours, theirs = [wrong] * 12 + gold[:6], gold[:12] + [wrong] * 6
    found = randomised("ter", ours, theirs, gold)["p"][1]
    assert found == pytest.approx(62_360 / 262_144, abs=4 * (0.24 * 0.76 / 10_000) ** 0.5)
    assert found == randomised("ter", ours, theirs, gold)["p"][1] == randomised("ter", theirs, ours, gold)["p"][1]


@pytest.mark.parametrize("metric", ["bleu", "chrf", "ter"])
@pytest.mark.parametrize("differing", [1, 4, 7])
def test_few_exchanges_are_enumerated_as_scipy_does(metric, differing):
    """Text by text, by sacreBLEU's scores of the corpus: nothing of ours but the choice of the segments."""
    from scipy.stats import permutation_test

    from fairseq_kd.scoring.score import PLAIN

    gold, ours = GOLD[:12], BASE[:12]
    theirs = OTHER[:differing] + ours[differing:]
    measure = PLAIN.metric(metric, [gold])

    def difference(a, b):
        texts = [[*map(str, one), *ours[differing:]] for one in (a, b)]
        return abs(measure.corpus_score(texts[0], None).score - measure.corpus_score(texts[1], None).score)

    sides = (ours[:differing], theirs[:differing])
    samples = {"permutation_type": "samples", "n_resamples": float("inf"), "vectorized": False}
    exact = 1.0  # scipy wants two observations
    if differing > 1:
        exact = permutation_test(
            [np.array(side) for side in sides], difference, alternative="greater", **samples
        ).pvalue
    found = randomised(metric, ours, theirs, gold)
    assert found["p"][1] == pytest.approx(exact, abs=1e-12) and "|ar:exact_2^" in found["signatures"][1]
    assert "seed" not in found["signatures"][1]


@pytest.mark.parametrize(
    ("differing", "trials", "test"), [(16, 100, "exact_2^16"), (17, 2**17, "exact_2^17"), (17, 100, "100")]
)
def test_as_many_exchanges_are_enumerated_as_there_are_trials_or_65536(differing, trials, test):
    """All segments one edit better, so that all or none must be exchanged: 2 / 2^k."""
    gold = ["a b c d e f"] * 20
    found = randomised("ter", ["a b c d e x"] * differing + gold[differing:], gold, gold, trials)
    assert f"|ar:{test}|" in found["signatures"][1]
    assert found["p"][1] == (1 / 101 if test == "100" else 2.0 ** (1 - differing))


def test_welch_t_worked_by_hand():
    """Means 2 and 5, variances 1 and 20/3: squared errors 1/3 and 5/3 of the means, with 2 and 3 degrees of freedom."""
    from scipy.stats import t as student

    from fairseq_kd.evaluation.significance import welch_t

    found = welch_t([1.0, 2.0, 3.0], [2.0, 4.0, 6.0, 8.0])
    freedom = 2**2 / ((1 / 3) ** 2 / 2 + (5 / 3) ** 2 / 3)
    assert found["t"] == pytest.approx(-3 / 2**0.5) and found["degrees_of_freedom"] == pytest.approx(freedom)
    assert found["p"] == pytest.approx(2 * student.sf(3 / 2**0.5, freedom))
    assert welch_t([2.0, 2.0], [1.0, 1.0]) == {"t": None, "degrees_of_freedom": None, "p": None}


def test_paired_t_of_three_seeds_worked_by_hand():
    found = paired_t([11.0, 22.0, 33.0], [10.0, 20.0, 30.0])
    # differences 1, 2, 3: mean 2, sd 1, t = 2 / (1 / sqrt 3); p = 1 - t / sqrt(t² + 2) with two degrees of freedom
    assert found["t"] == pytest.approx(12**0.5) and found["degrees_of_freedom"] == 2
    assert found["p"] == pytest.approx(1 - (12 / 14) ** 0.5)


def test_differences_that_do_not_vary_show_nothing():
    assert paired_t([1.0, 2.0], [1.0, 2.0]) == {"t": None, "degrees_of_freedom": 1, "p": None}
    apart = paired_t([31.3, 29.1, 30.2], [30.2, 28.0, 29.1])  # 1.1 each, up to rounding
    assert apart == {"t": None, "degrees_of_freedom": 2, "p": None}


def test_holm_worked_by_hand():
    # sorted: 0.005 * 4, 0.01 * 3, 0.03 * 2, 0.04 * 1 -> not below the one before
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02] and holm([]) == []
    assert holm([None, 0.03, 0.01, None]) == [None, 0.03, 0.02, None]
