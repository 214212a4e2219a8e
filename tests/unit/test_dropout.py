"""Dropout on the CPU: rate, scale, independence, gradient, and everything that torch's generator controls."""

import math

import numpy as np
import pytest
import torch
from fairseq.modules import FairseqDropout
from fairseq.modules.checkpoint_activations import checkpoint_wrapper
from scipy import stats
from student_helpers import SMALL, build_student, some_input

from fairseq_kd.models.dropout import LEVELS, LOWEST, FastDropout, _Dropout, dropout

N = 2**18


def kept(p, shape=(N,), seed=1):
    """Which elements stay: a bool tensor."""
    torch.manual_seed(seed)
    return dropout(torch.ones(shape), p) != 0


@pytest.mark.parametrize("p", [0.0003, 0.1, 0.3, 0.5, 0.9])
def test_the_share_of_dropped_elements_is_p(p):
    dropped = sum(int((~kept(p, seed=seed)).sum()) for seed in range(8))
    assert abs(dropped - 8 * N * p) < 3 * math.sqrt(8 * N * p * (1 - p)) + 8 * N / LEVELS / 2


def test_all_65536_rates_are_exact_to_half_a_step():
    numbers = torch.arange(-(2**15), 2**15, dtype=torch.int16)  # every value once
    for p in (0.1, 1 / 3, 0.25, 1 / LEVELS, 1 - 1 / LEVELS):
        bound = LOWEST + round(p * LEVELS)
        out = _Dropout.apply(torch.ones(LEVELS, dtype=torch.float64), numbers, bound)
        assert int((out == 0).sum()) == round(p * LEVELS)
        assert out.mean().item() == pytest.approx(1, abs=1e-9)  # the expected value of the result is x


def test_elements_rows_updates_and_layers_are_independent():
    columns = torch.stack([kept(0.5, (N,), seed) for seed in (1, 2)]).float()  # two updates
    torch.manual_seed(3)
    columns = torch.cat(
        [columns, torch.stack([(dropout(torch.ones(N), 0.5) != 0).float() for _ in range(2)])]
    )  # layers
    correlation = np.corrcoef(columns.numpy())
    assert np.abs(correlation - np.eye(4)).max() < 4 / math.sqrt(N)
    first = columns[0].numpy() - 0.5
    for lag in (1, 2, 3, 4, 5, 8, 64, 256, 512, 1024):  # neighbours share a 64-bit word; rows share a column
        z = (first[:-lag] * first[lag:]).sum() / (0.25 * math.sqrt(N - lag))
        assert abs(z) < 4, lag


def test_patterns_of_four_neighbours_are_equally_frequent():
    bits = kept(0.5).view(-1, 4).long()
    counts = torch.bincount(bits @ torch.tensor([8, 4, 2, 1]), minlength=16)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (2, 0), (7, 3, 2)])
def test_result_and_gradient_have_the_same_mask_and_factor(shape, dtype):
    x = torch.randn(shape, dtype=dtype).abs().add(1).requires_grad_()
    torch.manual_seed(1)
    out = dropout(x, 0.25)
    out.backward(torch.ones_like(out))
    factor = x.grad
    assert out.dtype == x.dtype
    assert out.shape == x.shape
    assert set(factor.flatten().tolist()) <= {0.0, torch.tensor(4 / 3, dtype=dtype).item()}
    assert torch.allclose(out, x * factor, rtol=1e-2 if dtype == torch.bfloat16 else 1e-6)


def test_a_tensor_that_is_not_contiguous_and_finite_differences():
    x = torch.randn(6, 4, dtype=torch.float64).t().requires_grad_()

    def function(x):
        torch.manual_seed(7)
        return dropout(x, 0.4)

    assert torch.autograd.gradcheck(function, (x,))


def test_p_0_changes_nothing_and_p_1_drops_all():
    x = torch.randn(5, requires_grad=True)
    state = torch.get_rng_state()
    assert dropout(x, 0.0) is x
    out = dropout(x, 1.0)
    out.sum().backward()
    assert out.eq(0).all()
    assert x.grad.eq(0).all()
    assert torch.equal(state, torch.get_rng_state())


def test_the_generator_of_torch_decides():
    x = torch.ones(1000)
    torch.manual_seed(1)
    first, second = dropout(x, 0.5), dropout(x, 0.5)
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert torch.equal(dropout(x, 0.5), first)
    torch.set_rng_state(state)
    assert torch.equal(dropout(x, 0.5), first)


def test_students_have_it_and_only_in_training():
    for arch in ("kd_student", "kd_adaptive"):
        target = ("--capacity-target", "0.5") if arch == "kd_adaptive" else ()
        options = ["--arch", arch, *SMALL[:-1], "0.3", "--activation-dropout", "0.1", *target]
        model = build_student(*options)
        modules = [module for module in model.modules() if isinstance(module, FairseqDropout)]
        assert modules
        assert all(type(module) is FastDropout for module in modules)
        stock = build_student("--arch", "transformer", *SMALL[:-1], "0.3", "--activation-dropout", "0.1")
        names = {name: module.p for name, module in stock.named_modules() if isinstance(module, FairseqDropout)}
        assert {n: m.p for n, m in model.named_modules() if isinstance(m, FairseqDropout)} == names
        model.eval()
        first, second = (model(**some_input())[0] for _ in range(2))
        assert torch.equal(first, second)
        model.train()
        assert not torch.equal(model(**some_input())[0], model(**some_input())[0])


def test_a_recomputed_layer_draws_the_same_mask():
    linear, drop = torch.nn.Linear(8, 8), FastDropout(0.5)
    layer = torch.nn.Sequential(linear, drop)
    x = torch.randn(4, 8)
    gradients = []
    for module in (layer, checkpoint_wrapper(layer)):
        torch.manual_seed(3)
        linear.zero_grad()
        module(x.clone().requires_grad_()).square().sum().backward()
        gradients.append(linear.weight.grad.clone())
    assert torch.equal(*gradients)


def test_retained_dropout_is_active_at_inference():
    module = FastDropout(0.5, module_name="FastDropout").eval()
    x = torch.ones(64)
    assert module(x) is x
    module.make_generation_fast_("decoder", retain_dropout=True)
    assert module(x).eq(0).any()
