import math

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Categorical, kl_divergence

from fairseq_kd.loss.divergence import (
    bucket,
    centred_mse,
    forward_kl,
    js,
    ranking,
    reverse_kl,
    temper,
    temperature_scale,
)

TEMPERATURES = (1, 2, 4)


def random_logits(seed, n=6, v=11):
    return torch.randn(n, v, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3


def test_forward_kl_is_zero_for_equal_lprobs():
    lprobs = random_logits(0).log_softmax(-1)
    assert torch.equal(forward_kl(lprobs, lprobs), torch.zeros(6, dtype=torch.float64))


def test_forward_kl_of_a_case_worked_by_hand():
    # teacher (1/2, 1/2), student (1/4, 3/4): 1/2 ln 2 + 1/2 ln(2/3) = 1/2 ln(4/3)
    student = torch.tensor([[0.25, 0.75]], dtype=torch.float64).log()
    teacher = torch.tensor([[0.5, 0.5]], dtype=torch.float64).log()
    assert forward_kl(student, teacher).item() == pytest.approx(0.14384103622589045, abs=1e-15)


def test_forward_kl_equals_torch_kl_div():
    student, teacher = random_logits(1).log_softmax(-1), random_logits(2).log_softmax(-1)
    expected = F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)
    torch.testing.assert_close(forward_kl(student, teacher), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_gradient_of_forward_kl_by_finite_differences_and_by_hand(temperature):
    logits, teacher = random_logits(3).requires_grad_(), random_logits(4).log_softmax(-1)

    def loss(z):
        return forward_kl(temper(z.log_softmax(-1), temperature), temper(teacher, temperature)).sum()

    assert torch.autograd.gradcheck(loss, (logits,), eps=1e-5, atol=1e-8, rtol=1e-7)
    (gradient,) = torch.autograd.grad(loss(logits), logits)
    q, p = F.softmax(logits / temperature, -1), F.softmax(teacher / temperature, -1)
    torch.testing.assert_close(gradient, (q - p) / temperature, rtol=1e-10, atol=1e-12)


def test_no_gradient_reaches_the_teacher():
    teacher = random_logits(5).log_softmax(-1).requires_grad_()
    student = random_logits(6).log_softmax(-1).requires_grad_()
    forward_kl(student, teacher).sum().backward()
    assert teacher.grad is None and student.grad is not None


def test_forward_kl_refuses_unequal_shapes():
    with pytest.raises(ValueError, match=r"\(6, 11\).*\(6, 12\)"):
        forward_kl(random_logits(0), random_logits(0, v=12))


@pytest.mark.parametrize("temperature", (0.5, 1, 2, 4))
def test_tempering_lprobs_equals_dividing_logits(temperature):
    logits = random_logits(7)
    expected = F.log_softmax(logits / temperature, -1)
    torch.testing.assert_close(temper(logits.log_softmax(-1), temperature), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("policy", "teacher", "student", "expected"),
    [("auto", 1, 1, 1), ("auto", 2, 2, 4), ("auto", 2, 1, 1), ("none", 3, 3, 1), ("2.5", 2, 2, 2.5)],
)
def test_temperature_scale(policy, teacher, student, expected):
    assert temperature_scale(policy, teacher, student) == expected


def test_auto_scale_keeps_the_size_of_the_gradient_at_high_temperature():
    # Hinton et al. 2015: as T grows the gradient of T² KL tends to (z - v) / V for zero-mean logits
    z, v = random_logits(8), random_logits(9)
    z, v = (z - z.mean(-1, keepdim=True)).requires_grad_(), v - v.mean(-1, keepdim=True)
    t = 1e4
    loss = t**2 * forward_kl(temper(z.log_softmax(-1), t), temper(v.log_softmax(-1), t)).sum()
    (gradient,) = torch.autograd.grad(loss, z)
    torch.testing.assert_close(gradient, (z.detach() - v) / z.size(-1), rtol=0, atol=5e-3)
    assert math.isfinite(loss.item())


@pytest.mark.parametrize("divergence", [forward_kl, reverse_kl, js, centred_mse])
def test_divergences_are_zero_for_equal_lprobs_and_positive_otherwise(divergence):
    one, other = random_logits(5).log_softmax(-1), random_logits(6).log_softmax(-1)
    torch.testing.assert_close(divergence(one, one), torch.zeros(6, dtype=torch.float64), rtol=0, atol=1e-14)
    assert (divergence(one, other) > 0).all()
    with pytest.raises(ValueError, match="differ"):
        divergence(one, other[:, :-1])


def test_reverse_kl_equals_torch_distributions():
    student, teacher = random_logits(1), random_logits(2)
    expected = kl_divergence(Categorical(logits=student), Categorical(logits=teacher))
    torch.testing.assert_close(reverse_kl(student.log_softmax(-1), teacher.log_softmax(-1)), expected)


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_js_equals_torch_distributions(beta):
    student, teacher = Categorical(logits=random_logits(1)), Categorical(logits=random_logits(2))
    mixture = Categorical(probs=beta * teacher.probs + (1 - beta) * student.probs)
    expected = beta * kl_divergence(teacher, mixture) + (1 - beta) * kl_divergence(student, mixture)
    found = js(random_logits(1).log_softmax(-1), random_logits(2).log_softmax(-1), beta)
    torch.testing.assert_close(found, expected)


def test_js_of_one_half_is_symmetric_and_at_most_ln_2():
    one, other = 50 * random_logits(1), 50 * random_logits(2)
    one, other = one.log_softmax(-1), other.log_softmax(-1)
    torch.testing.assert_close(js(one, other), js(other, one))
    assert js(one, other).max() <= math.log(2) + 1e-12


def test_centred_mse_equals_torch_mse_and_ignores_a_constant():
    student, teacher = random_logits(1), random_logits(2)
    rows = [F.mse_loss(s - s.mean(), t - t.mean()) for s, t in zip(student, teacher, strict=True)]
    torch.testing.assert_close(centred_mse(student, teacher), torch.stack(rows))
    torch.testing.assert_close(centred_mse(student.log_softmax(-1), teacher + 7), centred_mse(student, teacher))


def test_bucket_adds_up_what_is_not_named():
    lprobs = torch.tensor([[0.1, 0.2, 0.3, 0.4]], dtype=torch.float64).log()
    found = bucket(lprobs, torch.tensor([[3, 1]])).exp()
    torch.testing.assert_close(found, torch.tensor([[0.4, 0.2, 0.4]], dtype=torch.float64))


def ranked(student, teacher, size):
    """ranking() of one token from two rows of probabilities."""
    student, teacher = (torch.tensor([row], dtype=torch.float64).log() for row in (student, teacher))
    top, ids = teacher.topk(size)
    own_ids = student.topk(size).indices
    return ranking(student, ids, top, own_ids, teacher.gather(-1, own_ids)).item()


def test_ranking_is_zero_where_the_order_is_the_teachers():
    assert ranked([0.5, 0.3, 0.2], [0.6, 0.3, 0.1], size=2) == 0


def test_ranking_of_a_case_worked_by_hand():
    # teacher's first two: types 0, 1. Student's first two: types 2 (0.5), 1 (0.3); it gives type 0 0.2.
    # first part: type 1 above type 0 by 0.1. Second part: type 2, which is less probable for the teacher than both,
    # is above 0 by 0.3 and above 1 by 0.2; type 1, less probable than 0, is above 0 by 0.1.
    assert ranked([0.2, 0.3, 0.5], [0.6, 0.3, 0.1], size=2) == pytest.approx(0.1 + 0.3 + 0.2 + 0.1, abs=1e-12)


NONE = float("-inf")
LN2, LN3 = math.log(2), math.log(3)


@pytest.mark.parametrize(
    ("divergence", "teacher", "student", "expected"),
    [
        (forward_kl, (1 / 2, 1 / 2, 0), (1 / 8, 3 / 8, 1 / 2), 2 * LN2 - LN3 / 2),  # 1/2 ln 4 + 1/2 ln 4/3
        (forward_kl, (1 / 2, 1 / 2, 0), (1 / 4, 3 / 4, 0), LN2 - LN3 / 2),  # 1/2 ln 2 + 1/2 ln 2/3
        (forward_kl, (1 / 2, 0, 1 / 2), (1 / 4, 3 / 4, 0), math.inf),
        (reverse_kl, (1 / 8, 3 / 8, 1 / 2), (1 / 2, 1 / 2, 0), 2 * LN2 - LN3 / 2),
        (reverse_kl, (1 / 2, 1 / 2, 0), (1 / 8, 3 / 8, 1 / 2), math.inf),
        (js, (1, 0), (0, 1), LN2),  # nothing in common: m = (1/2, 1/2)
        (js, (1 / 2, 1 / 2, 0), (1 / 2, 0, 1 / 2), LN2 / 2),  # m = (1/2, 1/4, 1/4): 1/2 ln 2 on each side
        (js, (1 / 2, 1 / 2, 0, 0), (1 / 2, 0, 1 / 2, 0), LN2 / 2),
        (centred_mse, (1 / 2, 1 / 2, 0), (1 / 8, 3 / 8, 1 / 2), LN3**2 / 4),  # -ln 4 and ln 3/4: mean +- (ln 3) / 2
        (centred_mse, (1 / 2, 1 / 4, 1 / 4), (1 / 2, 1 / 2, 0), LN2**2 / 4),  # 0 and ln 2
        (centred_mse, (1, 0), (0, 1), 0.0),  # no type with two logits
    ],
)
def test_probabilities_of_nothing_by_hand(divergence, teacher, student, expected):
    """0 ln 0 = 0, and a KL is infinite where its second distribution is 0 and its first is not."""
    teacher, student = (torch.tensor([row], dtype=torch.float64).log() for row in (teacher, student))
    assert divergence(student, teacher).item() == pytest.approx(expected, abs=1e-15)
    assert divergence(student.float(), teacher.float()).item() == pytest.approx(expected, abs=1e-6)


EXCLUDED = {  # of 6 tokens and 11 types: by the teacher, by the student
    "nothing": (None, None),
    "by the teacher": ([2, 5, 9], None),
    "by the student": (None, [2, 5, 9]),
    "by both": ([2, 5], [2, 5]),
    "more by the teacher": ([2, 5, 9], [2, 9]),
    "more by the student": ([2, 9], [2, 5, 9]),
    "others": ([1, 2], [2, 3]),
}
FINITE = {
    "kl": ("nothing", "by the teacher", "by both", "more by the teacher"),
    "tie": ("nothing", "by the teacher", "by both", "more by the teacher"),
    "reverse_kl": ("nothing", "by the student", "by both", "more by the student"),
    "js": tuple(EXCLUDED),
    "mse": tuple(EXCLUDED),
}


def exclude(logits, types):
    """Log-probabilities: -inf at these types of every second token and at the first of them everywhere."""
    excluded = torch.zeros(logits.shape, dtype=torch.bool)
    if types is not None:
        excluded[::2, types] = True
        excluded[:, types[0]] = True
    return logits.masked_fill(excluded, NONE).log_softmax(-1)


@pytest.mark.parametrize(("name", "case"), [(name, case) for name, cases in FINITE.items() for case in cases])
@pytest.mark.parametrize("kind", ["dense", "top_k"])
@pytest.mark.parametrize("temperature", [1, 2])
def test_types_that_are_excluded_leave_losses_and_gradients_finite(name, case, kind, temperature):
    """Loss and gradient by finite differences. With k = 9 some of the named types are excluded by the teacher.

    With k = 7 none is; the bucket of the others has a type that neither side excludes.
    """
    from fairseq_kd.loss.objective import Objective, divergence
    from fairseq_kd.loss.signal import DenseSignal

    by_teacher, by_student = EXCLUDED[case]
    signal = DenseSignal(exclude(random_logits(21), by_teacher), None, temperature)
    if kind == "top_k":
        signal = signal.truncate(9 if by_student is None else 7)
    objective = Objective(divergence=name, student_temperature=temperature)

    def loss(logits):
        return divergence(exclude(logits, by_student), signal, objective)[0]

    logits = random_logits(22).requires_grad_()
    assert bool(loss(logits).isfinite().all())
    assert torch.autograd.gradcheck(loss, (logits,), eps=1e-6, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("divergence", [forward_kl, js])
def test_an_excluded_type_is_the_limit_of_an_unlikely_one(divergence):
    logits, teacher = random_logits(23).requires_grad_(), random_logits(24)
    found = []
    for value in (-100.0, NONE):
        teacher[:, 4] = value
        loss = divergence(logits.log_softmax(-1), teacher.log_softmax(-1))
        found.append((loss, *torch.autograd.grad(loss.sum(), logits)))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


def test_a_bucket_of_nothing_has_no_gradient():
    lprobs = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]], dtype=torch.float64).log().requires_grad_()
    outcomes = bucket(lprobs, torch.tensor([[0, 1], [0, 1]]))
    assert outcomes[0, 2].item() == NONE and outcomes[1, 2].item() == pytest.approx(-LN2)
    (gradient,) = torch.autograd.grad(outcomes[:, 2].sum(), lprobs)
    torch.testing.assert_close(gradient, torch.tensor([[0.0, 0, 0, 0], [0, 0, 0.5, 0.5]], dtype=torch.float64))
