import math

import pytest
import torch
import torch.nn.functional as F

from fairseq_kd.loss.divergence import forward_kl, temper, temperature_scale

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
