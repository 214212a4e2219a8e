"""Every registered divergence: values worked by hand, gradients, and what the rest of the program derives from it."""

import math

import pytest
import torch
import torch.nn.functional as F
from docs_helpers import blocks_run_by
from torch.distributions import Categorical, kl_divergence

from fairseq_kd.core.errors import KDError
from fairseq_kd.loss.divergences import DIVERGENCES
from fairseq_kd.loss.divergences.kl import ranking
from fairseq_kd.loss.objective import Objective, divergence
from fairseq_kd.loss.signal import DenseSignal

NONE = float("-inf")
LN2, LN3, LN5, LN7 = (math.log(number) for number in (2, 3, 5, 7))

# name: [(parameters, teacher, student, value worked by hand)]. 0 ln 0 = 0, and a KL is infinite where its second
# distribution is 0 and its first is not.
BY_HAND = {
    "kl": [
        ({}, (1 / 2, 1 / 2), (1 / 4, 3 / 4), LN2 - LN3 / 2),  # 1/2 ln 2 + 1/2 ln 2/3
        ({}, (1 / 2, 1 / 2, 0, 0), (1 / 8, 3 / 8, 1 / 2, 0), 2 * LN2 - LN3 / 2),  # 1/2 ln 4 + 1/2 ln 4/3
        ({}, (1 / 2, 0, 1 / 2), (1 / 4, 3 / 4, 0), math.inf),
        ({}, (1 / 2, 1 / 2), (9 / 10, 1 / 10), LN5 - LN3),  # 1/2 ln 5/9 + 1/2 ln 5
    ],
    "reverse_kl": [
        ({}, (1 / 8, 3 / 8, 1 / 2), (1 / 2, 1 / 2, 0), 2 * LN2 - LN3 / 2),
        ({}, (1 / 2, 1 / 2, 0), (1 / 8, 3 / 8, 1 / 2), math.inf),
        ({}, (1 / 2, 1 / 2), (9 / 10, 1 / 10), 1.8 * LN3 - LN5),  # 9/10 ln 9/5 + 1/10 ln 1/5
    ],
    "js": [
        ({}, (1, 0), (0, 1), LN2),  # nothing in common: m = (1/2, 1/2)
        ({}, (1 / 2, 1 / 2, 0, 0), (1 / 2, 0, 1 / 2, 0), LN2 / 2),  # m = (1/2, 1/4, 1/4, 0): 1/2 ln 2 on each side
        # m = (7/10, 3/10): 1/2 (1/2 ln 5/7 + 1/2 ln 5/3) + 1/2 (9/10 ln 9/7 + 1/10 ln 1/3)
        ({}, (1 / 2, 1 / 2), (9 / 10, 1 / 10), (2 * LN5 + 2.4 * LN3 - 2.8 * LN7) / 4),
        ({"js_beta": 1 / 4}, (1, 0), (0, 1), 2 * LN2 - 3 * LN3 / 4),  # m = (1/4, 3/4): 1/4 ln 4 + 3/4 ln 4/3
    ],
    "skew_kl": [
        ({}, (1, 0), (0, 1), LN2 + LN5),  # m = (1/10, 9/10): ln 10
        ({"skew_alpha": 1 / 4}, (1 / 2, 1 / 2), (1, 0), 2 * LN2 - LN7 / 2),  # m = (7/8, 1/8): 1/2 ln 4/7 + 1/2 ln 4
        ({"skew_alpha": 1 / 2}, (1 / 2, 1 / 2, 0), (1 / 2, 0, 1 / 2), LN2 / 2),  # m = (1/2, 1/4, 1/4)
    ],
    "skew_reverse_kl": [
        ({}, (1, 0), (0, 1), LN2 + LN5),  # m = (9/10, 1/10): ln 10
        ({"skew_alpha": 1 / 4}, (1 / 2, 1 / 2), (1, 0), 3 * LN2 - LN5),  # m = (5/8, 3/8): ln 8/5
        ({"skew_alpha": 1 / 4}, (1 / 2, 1 / 2, 0), (0, 1 / 2, 1 / 2), LN2),  # m = (3/8, 1/2, 1/8): 1/2 ln 1 + 1/2 ln 4
    ],
    "mse": [
        ({}, (1 / 2, 1 / 2, 0), (1 / 8, 3 / 8, 1 / 2), LN3**2 / 4),  # -ln 4 and ln 3/4: mean +- (ln 3) / 2
        ({}, (1 / 2, 1 / 4, 1 / 4), (1 / 2, 1 / 2, 0), LN2**2 / 4),  # 0 and ln 2
        ({}, (1, 0), (0, 1), 0.0),  # no outcome has two logits
    ],
    "tvd": [
        ({}, (1 / 2, 1 / 2), (9 / 10, 1 / 10), 2 / 5),  # 1/2 (2/5 + 2/5)
        ({}, (1, 0, 0), (0, 1, 0), 1.0),
        ({}, (1 / 2, 1 / 2, 0), (1 / 2, 0, 1 / 2), 1 / 2),
    ],
    "tie": [
        # kl: 1/2 ln 2 + 1/2 ln 2/3. Ranking: the teacher has no order, so its first is outcome 0, below 1 by 1/2
        ({}, (1 / 2, 1 / 2), (1 / 4, 3 / 4), LN2 - LN3 / 2 + 1 / 2),
    ],
}
# What one side may exclude without an infinite value. A divergence that is not named here is finite in every case.
EXCLUDED = {  # entries that are excluded (by the teacher, by the student), of 11 entries
    "nothing": (None, None),
    "by the teacher": ([2, 5, 9], None),
    "by the student": (None, [2, 5, 9]),
    "by both": ([2, 5], [2, 5]),
    "more by the teacher": ([2, 5, 9], [2, 9]),
    "more by the student": ([2, 9], [2, 5, 9]),
    "others": ([1, 2], [2, 3]),
}
INFINITE = dict.fromkeys(("kl", "tie"), ("by the student", "more by the student", "others"))
INFINITE["reverse_kl"] = ("by the teacher", "more by the teacher", "others")
ALL = pytest.mark.parametrize("name", DIVERGENCES)


def random_logits(seed, n=6, v=11):
    return torch.randn(n, v, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3


def log_probs(*rows):
    return [torch.tensor([row], dtype=torch.float64).log() for row in rows]


def test_every_divergence_has_values_worked_by_hand():
    assert BY_HAND.keys() == DIVERGENCES.keys()


@pytest.mark.parametrize(("name", "case"), [(name, case) for name, cases in BY_HAND.items() for case in cases])
def test_values_worked_by_hand(name, case):
    parameters, *distributions, expected = case
    teacher, student = log_probs(*distributions)
    for convert, tolerance in ((torch.Tensor.double, 1e-14), (torch.Tensor.float, 1e-6)):
        found = DIVERGENCES[name](**parameters).of_signal(convert(student), DenseSignal(convert(teacher), None))
        assert found.item() == pytest.approx(expected, abs=tolerance)


@ALL
def test_it_is_zero_for_equal_distributions_and_positive_otherwise(name):
    one, other = random_logits(5).log_softmax(-1), random_logits(6).log_softmax(-1)
    found = DIVERGENCES[name]()
    torch.testing.assert_close(found.value(one, one), torch.zeros(6, dtype=torch.float64), rtol=0, atol=1e-14)
    assert (found.value(one, other) > 0).all()


@ALL
def test_unequal_shapes_are_refused_and_no_gradient_reaches_the_teacher(name):
    student, teacher = random_logits(5).log_softmax(-1).requires_grad_(), random_logits(6).log_softmax(-1)
    with pytest.raises(ValueError, match=r"\(6, 11\).*\(6, 10\)"):
        DIVERGENCES[name]().value(student, teacher[:, :-1])
    DIVERGENCES[name]().value(student, teacher.requires_grad_()).sum().backward()
    assert teacher.grad is None and student.grad is not None


def exclude(logits, entries):
    """Log-probabilities: -inf at these entries of every second token and at the first of them for every token."""
    excluded = torch.zeros(logits.shape, dtype=torch.bool)
    if entries is not None:
        excluded[::2, entries] = True
        excluded[:, entries[0]] = True
    return logits.masked_fill(excluded, NONE).log_softmax(-1)


@pytest.mark.parametrize(
    ("name", "case"), [(name, case) for name in DIVERGENCES for case in EXCLUDED if case not in INFINITE.get(name, ())]
)
@pytest.mark.parametrize("kind", ["dense", "top_k"])
@pytest.mark.parametrize("temperature", [1, 2])
def test_losses_are_finite_and_gradients_are_right_where_entries_are_excluded(name, case, kind, temperature):
    """Gradient by finite differences. With k = 9 the teacher excludes some of the named entries.

    With k = 7 it excludes none; the bucket of the others has an entry that neither side excludes.
    """
    by_teacher, by_student = EXCLUDED[case]
    signal = DenseSignal(exclude(random_logits(21), by_teacher), None, temperature)
    if kind == "top_k":
        signal = signal.truncate(9 if by_student is None else 7)
    objective = Objective(divergence=DIVERGENCES[name](), student_temperature=temperature)

    def loss(logits):
        return divergence(exclude(logits, by_student), signal, objective)[0]

    logits = random_logits(22).requires_grad_()
    assert bool(loss(logits).isfinite().all())
    assert torch.autograd.gradcheck(loss, (logits,), eps=1e-6, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", [name for name in DIVERGENCES if name not in ("reverse_kl", "mse")])
def test_an_excluded_entry_is_the_limit_of_an_unlikely_one(name):
    logits, teacher = random_logits(23).requires_grad_(), random_logits(24)
    found = []
    for value in (-100.0, NONE):
        teacher[:, 4] = value
        loss = DIVERGENCES[name]().value(logits.log_softmax(-1), teacher.log_softmax(-1))
        found.append((loss, *torch.autograd.grad(loss.sum(), logits)))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


def test_the_example_of_the_page():
    """CONTRIBUTING.md: (1/2 - 9/10)² + (1/2 - 1/10)² = 8/25."""
    (block,) = blocks_run_by("test_the_example_of_the_page")
    try:
        exec(block.text, {})
        found = Objective(divergence=DIVERGENCES["squared_error"]())
        teacher, student = log_probs((1 / 2, 1 / 2), (9 / 10, 1 / 10))
        assert divergence(student, DenseSignal(teacher, None), found)[0].item() == pytest.approx(8 / 25)
    finally:
        DIVERGENCES.pop("squared_error", None)


def test_kl_equals_torch_distributions():
    student, teacher = random_logits(1), random_logits(2)
    pair, swapped = (Categorical(logits=teacher), Categorical(logits=student)), (student, teacher)
    lprobs = [logits.log_softmax(-1) for logits in swapped]
    torch.testing.assert_close(DIVERGENCES["kl"]().value(*lprobs), kl_divergence(*pair))
    torch.testing.assert_close(DIVERGENCES["reverse_kl"]().value(*lprobs), kl_divergence(*pair[::-1]))


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_js_equals_torch_distributions(beta):
    student, teacher = Categorical(logits=random_logits(1)), Categorical(logits=random_logits(2))
    mixture = Categorical(probs=beta * teacher.probs + (1 - beta) * student.probs)
    expected = beta * kl_divergence(teacher, mixture) + (1 - beta) * kl_divergence(student, mixture)
    found = DIVERGENCES["js"](js_beta=beta).value(random_logits(1).log_softmax(-1), random_logits(2).log_softmax(-1))
    torch.testing.assert_close(found, expected)


def test_js_tends_to_zero_at_its_ends_and_after_division_to_the_two_kl():
    """The table in the docstring of JensenShannon: KL(p||q) = ln 5/3, KL(q||p) = 1.8 ln 3 - ln 5."""
    teacher, student = log_probs((1 / 2, 1 / 2), (9 / 10, 1 / 10))
    # m is (0.896, 0.104), (0.7, 0.3) and (0.504, 0.496)
    for beta, expected, digits in ((0.01, 0.005020, 5e-7), (0.5, 0.1017, 5e-5), (0.99, 0.003649, 5e-7)):
        assert DIVERGENCES["js"](js_beta=beta).value(student, teacher).item() == pytest.approx(expected, abs=digits)
    ends = [DIVERGENCES["js"](js_beta=beta).value(student, teacher).item() for beta in (1e-6, 1 - 1e-6)]
    assert ends == pytest.approx([1e-6 * (LN5 - LN3), 1e-6 * (1.8 * LN3 - LN5)], rel=1e-5)
    for beta in (0, 1):
        with pytest.raises(KDError, match=rf"--js-beta {beta}: .*0 and 1 give 0 for every pair.*is reverse_kl"):
            DIVERGENCES["js"](js_beta=beta)


def test_js_of_one_half_is_symmetric_and_at_most_ln_2():
    one, other = ((50 * random_logits(seed)).log_softmax(-1) for seed in (1, 2))
    js = DIVERGENCES["js"]()
    torch.testing.assert_close(js.value(one, other), js.value(other, one))
    assert js.value(one, other).max() <= LN2 + 1e-12


def test_centred_mse_equals_torch_mse_and_ignores_a_constant():
    student, teacher = random_logits(1), random_logits(2)
    mse = DIVERGENCES["mse"]().value
    rows = [F.mse_loss(s - s.mean(), t - t.mean()) for s, t in zip(student, teacher, strict=True)]
    torch.testing.assert_close(mse(student, teacher), torch.stack(rows))
    torch.testing.assert_close(mse(student.log_softmax(-1), teacher + 7), mse(student, teacher))


def ranked(student, teacher, size):
    """ranking() of one token from two rows of probabilities."""
    student, teacher = log_probs(student, teacher)
    top, ids = teacher.topk(size)
    own_ids = student.topk(size).indices
    return ranking(student, ids, top, own_ids, teacher.gather(-1, own_ids)).item()


def test_ranking_of_cases_worked_by_hand():
    assert ranked([0.5, 0.3, 0.2], [0.6, 0.3, 0.1], size=2) == 0  # the order is the teacher's
    # The teacher's first two: entries 0, 1. The student's first two: 2 (0.5), 1 (0.3); it gives entry 0 0.2.
    # First part: entry 1 is above entry 0 by 0.1. Second part: entry 2, which is less probable for the teacher than
    # both, is above 0 by 0.3 and above 1 by 0.2; entry 1, less probable than 0, is above 0 by 0.1.
    assert ranked([0.2, 0.3, 0.5], [0.6, 0.3, 0.1], size=2) == pytest.approx(0.1 + 0.3 + 0.2 + 0.1, abs=1e-12)


def test_tvd_gives_no_gradient_where_the_two_agree_and_half_the_sign_elsewhere():
    """By the probabilities (0.25, 0.5, 0.25) of the student: 0, 1/2 and -1/2, so by its lprobs 0, 1/4 and -1/8."""
    teacher, student = log_probs((1 / 4, 1 / 4, 1 / 2), (1 / 4, 1 / 2, 1 / 4))
    (gradient,) = torch.autograd.grad(DIVERGENCES["tvd"]().value(student.requires_grad_(), teacher), student)
    torch.testing.assert_close(gradient, torch.tensor([[0, 1 / 4, -1 / 8]], dtype=torch.float64))
