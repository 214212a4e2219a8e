import re
import subprocess
import sys

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
    words += [f"--paired-{option}", f"--paired-{option}-n", "200"]  # its JSON fails for the bootstrap of chrF
    printed = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    numbers = [float(number) for number in re.findall(r"\d+\.\d+", printed.split("Paired")[0])]
    samples = {"bootstrap": 200, "approximate_randomisation": 200}
    ours = segment_tests("chrf", [BASE, OTHER], GOLD, samples)[test]
    assert ours["p"][0] is None
    found = [*ours["scores"], ours["p"][1]]
    if test == "bootstrap":  # score, mean and interval of each
        columns = zip(ours["scores"], ours["mean"], ours["ci"], strict=True)
        found = [number for row in columns for number in row] + [ours["p"][1]]
    assert found[:-1] == pytest.approx(numbers[:-1], abs=1e-6) and len(found) == len(numbers)
    assert found[-1] == pytest.approx(numbers[-1], abs=1e-4)
    assert f"|{option}:200|seed:12345|" in ours["signature"]


def with_right_segments(count: int) -> list[str]:
    """BASE with so many wrong translations replaced by their references."""
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
