"""The loss of mutual learning on tensors: values by hand, gradients by finite differences."""

import math

import pytest
import torch

from fairseq_kd.loss.fused import fused_loss
from fairseq_kd.loss.mutual import MeanSignal, signal_of_others, with_spread
from fairseq_kd.loss.objective import Objective, reference_losses, temperature_scale
from fairseq_kd.loss.signal import DenseSignal

HALF, QUARTER = math.log(0.5), math.log(0.25)


def log(*rows):
    return torch.tensor(rows, dtype=torch.float64).log()


def losses_of(rows, target, objective, number):
    """The losses of peer `number` from the log-probabilities of all peers."""
    signals = [DenseSignal(each.detach(), None) for each in rows]
    signal = signal_of_others(signals, number)
    return with_spread(reference_losses(rows[number], target, signal, objective), signal, objective)


def test_two_peers_by_hand():
    """p1 = (1/2, 1/4, 1/4), p2 = (1/4, 1/2, 1/4), gold token 0, α = 1/4.

    KL(p2 || p1) = 1/4 ln 1/2 + 1/2 ln 2 + 0 = 1/4 ln 2, and so is KL(p1 || p2).
    """
    rows, target = (log((0.5, 0.25, 0.25)), log((0.25, 0.5, 0.25))), torch.tensor([0])
    first, second = (losses_of(rows, target, Objective(kd_weight=0.25), number) for number in (0, 1))
    assert first.kd.item() == pytest.approx(math.log(2) / 4) and second.kd.item() == pytest.approx(math.log(2) / 4)
    assert first.loss.item() == pytest.approx(-0.75 * HALF + 0.25 * math.log(2) / 4)
    assert second.loss.item() == pytest.approx(-0.75 * QUARTER + 0.25 * math.log(2) / 4)
    assert not first.agreed.item() and first.correct.item() and not second.correct.item()


def test_the_mean_over_two_others_by_hand():
    """q = (1/2, 1/2); others (3/4, 1/4) and (1/4, 3/4). Their mean is q, and so KL(mean || q) = 0.

    Each KL is 3/4 ln 3/2 + 1/4 ln 1/2, and so is their mean.
    """
    rows = log((0.5, 0.5)), log((0.75, 0.25)), log((0.25, 0.75))
    found = losses_of(rows, torch.tensor([0]), Objective(kd_weight=1.0, scale=2.0), 0)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert found.kd.item() == pytest.approx(expected) and found.loss.item() == pytest.approx(2 * expected)


def make(peers, tokens=600, vocabulary=7, seed=3):
    """(features, projection) of each peer with widths that differ, and the gold tokens; more rows than one chunk."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for number in range(peers):
        shapes = (tokens, 3 + number), (vocabulary, 3 + number)
        found.append([torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes])
    return found, torch.randint(vocabulary, (tokens,), generator=generator)


def written_out(peers, target, number, objective, tau):
    """The formula of the criterion for one peer, summed, by torch alone and with one KL per other peer."""
    logits = [features @ projection.t() for features, projection in peers]
    own = torch.log_softmax(logits[number], -1)
    smoothing = objective.label_smoothing
    gold = torch.nn.functional.nll_loss(own, target, reduction="sum")
    each = smoothing / (own.size(1) - 1)
    entropy = (1 - smoothing - each) * gold - each * own.sum()
    cold = torch.log_softmax(logits[number] / objective.student_temperature, -1)
    others = [torch.log_softmax(z / tau, -1) for k, z in enumerate(logits) if k != number]
    terms = [torch.nn.functional.kl_div(cold, other, reduction="sum", log_target=True) for other in others]
    mean = sum(terms) / len(terms)
    return (1 - objective.kd_weight) * entropy + objective.kd_weight * objective.scale * mean, mean


@pytest.mark.parametrize(("peers", "tau", "own_tau"), [(2, 1.0, 1.0), (2, 2.0, 2.0), (3, 1.0, 1.0), (4, 2.0, 1.5)])
def test_values_and_finite_differences(peers, tau, own_tau):
    """The fused loss has the values of the formula; its gradient is the slope of the formula, the others fixed."""
    found, target = make(peers)
    scale = temperature_scale("auto", tau, own_tau)
    objective = Objective(kd_weight=0.4, scale=scale, label_smoothing=0.1, student_temperature=own_tau)
    signals = [DenseSignal(*each, tau) for each in found]
    for number, (features, projection) in enumerate(found):
        signal = signal_of_others(signals, number)
        own = features.clone().requires_grad_(), projection.clone().requires_grad_()
        losses = with_spread(fused_loss(*own, target, signal, objective), signal, objective)
        loss, kd = written_out(found, target, number, objective, tau)
        assert losses.loss.item() == pytest.approx(loss.item(), rel=1e-12)
        assert losses.kd.item() == pytest.approx(kd.item(), rel=1e-12)
        gradients = torch.autograd.grad(losses.loss, own)
        for tensor, gradient in zip((features, projection), gradients, strict=True):
            for place in ((0, 0), (5, 2)):
                value, slopes = tensor[place].item(), []
                for step in (1e-5, -1e-5):
                    tensor[place] = value + step
                    slopes.append(written_out(found, target, number, objective, tau)[0].item())
                tensor[place] = value
                assert gradient[place].item() == pytest.approx((slopes[0] - slopes[1]) / 2e-5, rel=1e-6, abs=1e-6)


def test_equal_peers_have_no_divergence_and_the_order_of_the_others_changes_nothing():
    found, target = make(3)
    equal = MeanSignal.of([DenseSignal(*found[0])] * 3)
    losses = with_spread(fused_loss(*found[0], target, equal, Objective()), equal, Objective())
    assert losses.kd.item() == pytest.approx(0, abs=1e-9)
    one, other = (MeanSignal.of([DenseSignal(*found[k]) for k in order]) for order in ((1, 2), (2, 1)))
    torch.testing.assert_close(one.rows(), other.rows(), rtol=0, atol=1e-12)
    torch.testing.assert_close(one.spread, other.spread, rtol=0, atol=1e-12)


def test_an_entry_that_all_others_exclude_adds_nothing():
    signal = MeanSignal.of([DenseSignal(log(row), None) for row in ((0.5, 0.5, 0.0), (1.0, 0.0, 0.0))])
    own = log((0.25, 0.25, 0.5)).requires_grad_()
    losses = with_spread(
        reference_losses(own, torch.tensor([0]), signal, Objective(kd_weight=1.0)), signal, Objective(kd_weight=1.0)
    )
    assert losses.kd.item() == pytest.approx((math.log(2) + math.log(4)) / 2)
    (gradient,) = torch.autograd.grad(losses.loss.sum(), own)
    assert gradient.tolist() == [[-0.75, -0.25, 0.0]]


def test_a_row_that_the_loss_did_not_compute_is_not_logged_as_a_number():
    signal = MeanSignal.of([DenseSignal(log((0.5, 0.5), (0.5, 0.5)), None)] * 2)
    signal.rows(0, 1)
    assert signal.spread[0] == 0 and signal.spread[1].isnan()
