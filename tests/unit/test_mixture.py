"""Mixtures of teachers and their weights: values worked by hand, invariants, and the memory that is kept."""

import math

import pytest
import torch

from fairseq_kd.core.errors import KDError
from fairseq_kd.loss import signal as signals
from fairseq_kd.loss.mixture import MixtureSignal, gold_lprobs, largest_lprobs
from fairseq_kd.loss.signal import DenseSignal
from fairseq_kd.loss.weights import adaptive, by_nll, constant, equal, one_hot, per_sentence, read_weighting

INF = math.inf
FIRST = [[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]]
SECOND = [[0.1, 0.6, 0.3], [0.4, 0.5, 0.1]]


@pytest.fixture(autouse=True)
def several_chunks(monkeypatch):
    monkeypatch.setattr(signals, "ROWS_AT_A_TIME", 4)


def given(probs):
    """A signal of these probabilities, as log-probabilities."""
    return DenseSignal(torch.tensor(probs).log(), None)


def computed(probs):
    """The same from features: the projection is the identity, and each row of logits has its own constant."""
    lprobs = torch.tensor(probs).log()
    return DenseSignal(lprobs + torch.arange(len(lprobs)).unsqueeze(1), torch.eye(lprobs.size(1)))


def random_signals(count, n=11, v=23, d=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    return tuple(DenseSignal(3 * draw(n, d), draw(v, d)) for _ in range(count))


@pytest.mark.parametrize("make", [given, computed])
def test_a_mixture_by_hand(make):
    parts, weights = (make(FIRST), make(SECOND)), torch.tensor([0.25, 0.75]).log()
    expected = torch.tensor([[0.2, 0.5125, 0.2875], [0.35, 0.425, 0.225]])
    mixture = MixtureSignal(parts, weights)
    torch.testing.assert_close(mixture.rows().exp(), expected)
    torch.testing.assert_close(mixture.logits(1, 2).exp(), expected[1:])
    assert mixture.most_probable().tolist() == [1, 1]
    assert (len(mixture), mixture.vocabulary) == (2, 3)
    torch.testing.assert_close(gold_lprobs(mixture, torch.tensor([2, 0])).exp(), torch.tensor([0.2875, 0.35]))
    torch.testing.assert_close(largest_lprobs(mixture).exp(), torch.tensor([0.5125, 0.425]))


def test_the_temperature_is_applied_to_the_mixture_and_not_to_its_parts():
    mixture = MixtureSignal((given([[0.8, 0.2]]), given([[0.48, 0.52]])), equal(2), temperature=2.0)
    # the mixture is (0.64, 0.36), and its square roots are 0.8 and 0.6
    torch.testing.assert_close(mixture.rows().exp(), torch.tensor([[0.8 / 1.4, 0.6 / 1.4]]))
    logits = mixture.logits()
    torch.testing.assert_close(logits.softmax(-1), mixture.rows().exp())


@pytest.mark.parametrize("make", [given, computed])
def test_weights_per_token(make):
    weights = torch.tensor([[1.0, 0.0], [0.5, 0.5]]).log()
    mixture = MixtureSignal((make(FIRST), make(SECOND)), weights)
    expected = torch.tensor([FIRST[0], [0.3, 0.35, 0.35]])
    torch.testing.assert_close(mixture.rows().exp(), expected)
    torch.testing.assert_close(mixture.part(1, 2).rows().exp(), expected[1:])


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_three_identical_teachers_are_one(temperature):
    (one,) = random_signals(1)
    mixture = MixtureSignal((one,) * 3, constant([1, 2, 3]), temperature)
    expected = DenseSignal(one.features, one.projection, temperature).rows()
    assert (mixture.rows() - expected).abs().max() <= 2e-6
    assert (mixture.rows().exp() - expected.exp()).abs().max() <= 1e-6
    assert torch.equal(mixture.truncate(5).ids, one.truncate(5).ids)


def test_the_order_of_the_teachers_changes_nothing_but_rounding():
    parts, weights = random_signals(3), constant([1, 2, 3])
    order = [2, 0, 1]
    other = MixtureSignal(tuple(parts[i] for i in order), weights[order])
    torch.testing.assert_close(MixtureSignal(parts, weights).rows(), other.rows(), atol=1e-5, rtol=1e-6)


def test_a_weight_of_zero_is_exact_even_for_a_teacher_that_excludes_entries():
    excluding = given([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    weights = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).log()
    rows = MixtureSignal((computed(FIRST), excluding), weights).rows()
    torch.testing.assert_close(rows[0].exp(), torch.tensor(FIRST[0]))
    assert rows[1].tolist() == [-INF, 0.0, -INF]


def test_a_part_of_a_mixture_is_its_rows_and_no_array_of_all_rows_is_kept():
    mixture = MixtureSignal(random_signals(3), equal(3))
    whole = mixture.rows()
    mixture._scratch.clear()
    parts = torch.cat([mixture.part(start, start + 4).rows() for start in range(0, 11, 4)])
    # some processors round a product by its number of rows
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=0)
    assert [len(kept) for kept in mixture._scratch.values()] == [4]


def test_a_mixture_does_not_change_given_log_probabilities():
    part = given(FIRST)
    before = part.features.clone()
    mixture = MixtureSignal((part, given(SECOND)), equal(2), 2.0)
    mixture.rows(), mixture.logits(), gold_lprobs(part, torch.tensor([0, 1])), mixture.truncate(2)
    assert torch.equal(part.features, before)


def test_mixtures_of_no_tokens():
    parts = tuple(part.part(0, 0) for part in random_signals(2))
    mixture = MixtureSignal(parts, torch.zeros(0, 2))
    assert mixture.rows().shape == (0, 23) and mixture.truncate(3).ids.shape == (0, 3)
    assert gold_lprobs(mixture, torch.zeros(0, dtype=torch.long)).shape == (0,)


def test_the_log_probability_of_the_gold_token_is_the_one_of_the_row():
    for signal in (*random_signals(2), MixtureSignal(random_signals(2), equal(2))):
        gold = torch.arange(11)
        torch.testing.assert_close(gold_lprobs(signal, gold), signal.rows()[gold, gold])
        torch.testing.assert_close(largest_lprobs(signal), signal.rows().amax(dim=1))


def test_constant_weights_by_hand():
    torch.testing.assert_close(equal(4).exp(), torch.full((4,), 0.25))
    assert constant([1, 0, 3]).tolist() == pytest.approx([math.log(0.25), -INF, math.log(0.75)])
    # nll 2 and 2 + ln 3: the better teacher is three times as likely; at temperature 2 it is sqrt(3) times as likely
    torch.testing.assert_close(by_nll([2, 2 + math.log(3)]).exp(), torch.tensor([0.75, 0.25]))
    torch.testing.assert_close(by_nll([2, 2 + math.log(9)], 2.0).exp(), torch.tensor([0.75, 0.25]))


def test_adaptive_weights_by_hand():
    gold = torch.tensor([[0.6, 0.2], [0.1, 0.9], [0.0, 0.5], [0.0, 0.0]]).log()
    expected = torch.tensor([[0.75, 0.25], [0.1, 0.9], [0.0, 1.0], [0.5, 0.5]])
    torch.testing.assert_close(adaptive(gold).exp(), expected)
    # temperature 0.5: squares, 0.36 : 0.04 and 0.01 : 0.81
    squares = torch.tensor([[0.9, 0.1], [1 / 82, 81 / 82]])
    torch.testing.assert_close(adaptive(gold[:2], 0.5).exp(), squares)


def test_a_sentence_has_the_mean_of_its_tokens():
    keep = torch.tensor([[True, False, True], [False, False, False], [False, True, False]])
    values = torch.tensor([[-1.0, -2.0], [-3.0, -8.0], [-7.0, -INF]])
    assert per_sentence(values, keep).tolist() == [[-2, -5], [-2, -5], [-7, -INF]]


def test_the_largest_value_of_a_token_has_all_its_weight_and_of_equals_the_first():
    values = torch.tensor([[-1.0, -2.0], [-2.0, -1.0], [-1.0, -1.0], [-INF, -INF]])
    assert one_hot(values).tolist() == [[0, -INF], [-INF, 0], [0, -INF], [0, -INF]]


def test_weightings_are_read_from_their_options():
    assert read_weighting("2:0:6", 3).fixed(3).exp().tolist() == pytest.approx([0.25, 0, 0.75])
    assert read_weighting("equal", 2).fixed(2).exp().tolist() == [0.5, 0.5]
    assert read_weighting("nll", 2, 2.0).fixed(2, [0, math.log(9)]).exp().tolist() == pytest.approx([0.75, 0.25])
    gold, keep = torch.tensor([[0.6, 0.2], [0.1, 0.9]]).log(), torch.tensor([[True], [True]])
    by_token = read_weighting("adaptive", 2).of_tokens(gold, keep)
    torch.testing.assert_close(by_token.exp(), torch.tensor([[0.75, 0.25], [0.1, 0.9]]))
    by_sentence = read_weighting("adaptive", 2, per="sentence").of_tokens(gold, torch.tensor([[True, True]]))
    # geometric means sqrt(0.06) : sqrt(0.18) = 1 : sqrt(3)
    torch.testing.assert_close(by_sentence.exp(), torch.tensor([[1, 3**0.5]] * 2) / (1 + 3**0.5))


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("1:2", 3), "2 numbers for 3 teachers"),
        (("1:-2", 2), "0 or larger"),
        (("0:0", 2), "not all 0"),
        (("1:inf", 2), "0 or larger"),
        (("1:nan", 2), "0 or larger"),
        (("best", 2), "must be equal, adaptive, nll"),
        (("", 2), "must be equal, adaptive, nll"),
        (("adaptive", 1), "no effect with one teacher"),
        (("adaptive", 2, 0.0), "must be above 0"),
        (("equal", 2, 2.0), "it belongs to adaptive and nll"),
        (("nll", 2, 1.0, "sentence"), "it belongs to adaptive"),
    ],
)
def test_weights_that_do_not_fit_are_refused(arguments, words):
    with pytest.raises(KDError, match=words):
        read_weighting(*arguments)
