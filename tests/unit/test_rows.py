"""Operations on rows of log-probabilities."""

import math

import pytest
import torch
import torch.nn.functional as F

from fairseq_kd.loss.rows import bucket, temper


@pytest.mark.parametrize("temperature", (0.5, 1, 2, 4))
def test_tempering_lprobs_equals_dividing_logits(temperature):
    logits = torch.randn(6, 11, generator=torch.Generator().manual_seed(7), dtype=torch.float64) * 3
    expected = F.log_softmax(logits / temperature, -1)
    torch.testing.assert_close(temper(logits.log_softmax(-1), temperature), expected, rtol=1e-12, atol=1e-12)


def test_bucket_adds_up_what_is_not_named():
    lprobs = torch.tensor([[0.1, 0.2, 0.3, 0.4]], dtype=torch.float64).log()
    found = bucket(lprobs, torch.tensor([[3, 1]])).exp()
    torch.testing.assert_close(found, torch.tensor([[0.4, 0.2, 0.4]], dtype=torch.float64))


def test_a_bucket_of_nothing_has_no_gradient():
    lprobs = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]], dtype=torch.float64).log().requires_grad_()
    outcomes = bucket(lprobs, torch.tensor([[0, 1], [0, 1]]))
    assert outcomes[0, 2].item() == -math.inf and outcomes[1, 2].item() == pytest.approx(-math.log(2))
    (gradient,) = torch.autograd.grad(outcomes[:, 2].sum(), lprobs)
    torch.testing.assert_close(gradient, torch.tensor([[0.0, 0, 0, 0], [0, 0, 0.5, 0.5]], dtype=torch.float64))
