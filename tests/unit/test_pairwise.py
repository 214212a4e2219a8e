"""Sentence-level scores of all pairs of a group of texts, against sacreBLEU in a plain loop."""

import random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU, CHRF

from fairseq_kd.scoring import pairwise
from fairseq_kd.scoring.pairwise import Pairwise
from fairseq_kd.scoring.score import Scorer

WORDS = ["der", "hund", "läuft", "schnell", ",", "und", "die", "katze", "schläft", ".", "犬", "x", "aaaaaaaa", "(sic)"]


def loop(metric: str, texts: list[str], tokenize: str = "13a") -> np.ndarray:
    """The plain reference: one call of sacreBLEU per pair."""
    scorer = CHRF() if metric == "chrf" else BLEU(tokenize=tokenize, effective_order=True)
    return np.array([[scorer.sentence_score(text, [other]).score for other in texts] for text in texts])


def n_bests(count: int) -> list[list[str]]:
    """Lists of 1 to 6 variants of a sentence; some are equal, empty, or have odd white space."""
    rng, found = random.Random(1), []
    for _ in range(count):
        words = rng.choices(WORDS, k=rng.randint(0, 9))
        group = []
        for _ in range(rng.randint(1, 6)):
            variant = [rng.choice(WORDS) if rng.random() < 0.3 else word for word in words if rng.random() < 0.9]
            group.append(rng.choice([" ", " ", "  ", "\u3000", "\x1c"]).join(variant) + rng.choice(["", " "]))
        found.append(group)
    return found


@pytest.mark.parametrize("metric", ["chrf", "bleu"])
@pytest.mark.parametrize("symbols", [1000, pairwise.SYMBOLS])
def test_scores_and_choices_of_200_n_bests_are_those_of_a_loop_over_sacrebleu(metric, symbols, monkeypatch):
    monkeypatch.setattr(pairwise, "SYMBOLS", symbols)  # few groups at a time, or all
    groups, scored = n_bests(200), Pairwise(metric, Scorer())
    expected = [loop(metric, group) for group in groups]
    for ours, theirs in zip(scored.matrices(groups), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
    utilities = [theirs.mean(axis=1) for theirs in expected]
    found = list(scored.expected(groups))
    assert [np.argmax(u.round(9)) for u in found] == [np.argmax(u.round(9)) for u in utilities]
    assert len({int(np.argmax(u)) for u in found}) >= 4


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text("ab \u2009é犬\U0001f600.", max_size=12), max_size=4))
def test_any_text_is_scored_as_by_sacrebleu(texts):
    for metric in ("chrf", "bleu"):
        (found,) = list(Pairwise(metric, Scorer()).matrices([texts]))
        np.testing.assert_allclose(found, loop(metric, texts).reshape(found.shape), rtol=0, atol=1e-6)


PIECES = [*"a1é犬.,-&;(' \t\n\u2009\x1c", "<skipped>", "&quot;", "&amp;", "lt;", "-\n", "3.5", "5-", ",,"]


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
@example("a-\nb")
@example("1.,2 -3 <skip<skipped>ped>")
def test_the_words_of_bleu_are_the_tokens_of_sacrebleu(text):
    assert Pairwise("bleu", Scorer())._symbols(text) == BLEU().tokenizer(text.rstrip()).split()


def test_values_worked_by_hand():
    """chrF2: P = (2/2 + 1/1) / 2, R = (2/3 + 1/2) / 2. BLEU: (3/4 * 2/3 * 1/2 * 1/2) ** (1/4)."""
    (chrf,) = Pairwise("chrf", Scorer()).matrices([["ab", "a bc"]])
    assert chrf[0, 1] == pytest.approx(100 * 35 / 55)
    (bleu,) = Pairwise("bleu", Scorer()).matrices([["a b c d", "a b c e"]])
    assert bleu[0, 1] == pytest.approx(100 * (1 / 8) ** 0.25)


def test_numbers_of_ngrams_that_would_not_fit_in_64_bits_are_ranked():
    """3,000 different characters: six of them need 70 bits."""
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 3_000)))
    groups = [[text, text[:500] + text[:500], text[::-1]], [text[:30], text[10:40]]]
    for group, found in zip(groups, Pairwise("chrf", Scorer()).matrices(groups), strict=True):
        np.testing.assert_allclose(found, loop("chrf", group), rtol=0, atol=1e-6)


def test_other_tokenisers_split_the_words_of_bleu():
    texts = ["犬が走る", "犬が眠る", "猫"]
    (found,) = Pairwise("bleu", Scorer("char")).matrices([texts])
    np.testing.assert_allclose(found, loop("bleu", texts, "char"), atol=1e-6)
    assert found[0, 1] > 0


def test_an_expectation_counts_equal_texts_as_often_as_they_occur_and_by_weight():
    texts = ["ab", "ab", "xy"]  # score 100 with itself, 0 with the other one
    scored = Pairwise("chrf", Scorer())
    assert next(scored.expected([texts])) == pytest.approx([200 / 3, 200 / 3, 100 / 3])
    weighted = next(scored.expected([texts], [np.array([0.1, 0.1, 0.8])]))
    assert weighted == pytest.approx([20, 20, 80])
