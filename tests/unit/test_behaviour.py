import pytest

from fairseq_kd.evaluation.evaluate import rates, repetition_rate
from fairseq_kd.scoring.score import Scorer


def test_repetition_counts_4_grams_that_stood_earlier_in_the_line():
    # a b a b a b: the 4-grams are abab, baba, abab; one of three is a repetition
    assert repetition_rate([list("ababab")]) == pytest.approx(1 / 3)
    assert repetition_rate([list("ababab"), list("ababc")]) == pytest.approx(1 / 5)  # not across lines
    assert repetition_rate([list("xxxxxx")]) == pytest.approx(2 / 3)
    assert repetition_rate([list("abc"), []]) == 0


def test_rates_of_four_sentences_worked_by_hand():
    sources = ["ein Hund", "Paris", "", "das Haus"]
    hypotheses = ["a dog", "Paris", "", ""]
    found = rates(sources, hypotheses, ["one dog", "Paris", "nothing", "the house"], Scorer())
    assert found["copied"] == 1 / 4  # Paris; an empty translation of nothing is not a copy
    assert found["empty"] == 2 / 4
    assert found["length_ratio"] == pytest.approx(3 / 6)  # tokens: 2 + 1 against 2 + 1 + 1 + 2
    assert found["repetition"] == found["repetition_of_references"] == 0
    assert rates(["½ km … so"], ["1⁄2 km ... so"], ["x"], Scorer())["copied"] == 1  # as SentencePiece writes it
