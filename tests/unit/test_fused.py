"""The fused loss against the readable one, finite differences, and gradients worked out by hand."""

import collections
import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fairseq_kd.loss import products
from fairseq_kd.loss import signal as signals
from fairseq_kd.loss.divergences import DIVERGENCES
from fairseq_kd.loss.fused import fused_loss, token_nll
from fairseq_kd.loss.mixture import MixtureSignal
from fairseq_kd.loss.objective import Objective, reference_losses
from fairseq_kd.loss.signal import SMALLEST_TAIL, DenseSignal, TopKSignal

N, V, D, K = 11, 23, 6, 7
# (temperature, smoothing, weight): each pair of values of two of them
OPTIONS = [
    (tau, 0.1 * ((i + j) % 2), weight) for i, tau in enumerate((1, 2, 4)) for j, weight in enumerate((0, 0.3, 1.0))
]
SHAPED = [name for name, known in DIVERGENCES.items() if known.sees_tail_shapes]
PLACES = [*itertools.product(DIVERGENCES, ("dense", "top_k", "mixture")), *itertools.product(SHAPED, ("shaped",))]
GRID = [(*place, *options) for place in PLACES for options in OPTIONS]


@pytest.fixture(autouse=True)
def several_chunks(monkeypatch):
    monkeypatch.setattr(signals, "ROWS_AT_A_TIME", 4)


def inputs(dtype=torch.float64, seed=0):
    """(features, projection, target, teacher_lprobs) of N tokens; exactly representable in `dtype`."""
    generator = torch.Generator().manual_seed(seed)
    x, w, teacher = (
        torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((N, D), (V, D), (N, V))
    )
    target = torch.randint(0, V, (N,), generator=generator)
    return x.to(dtype), w.to(dtype), target, (teacher * 3).log_softmax(-1)


def signal_of(kind, teacher_lprobs, temperature=1):
    dense = DenseSignal(teacher_lprobs, None, temperature)
    if kind == "mixture":
        return mixture_with(teacher_lprobs, temperature)
    if kind == "shaped":
        return with_shapes(dense.truncate(K), teacher_lprobs)
    return dense.truncate(K) if kind == "top_k" else dense if kind == "dense" else None


def mixture_with(teacher_lprobs, temperature):
    """A mixture per token of the teacher and two networks; the teacher has weight 1 at the second token."""
    generator = torch.Generator().manual_seed(5)
    drawn = [
        torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((N, D), (V, D), (N, D), (N, 3))
    ]
    parts = (DenseSignal(teacher_lprobs, None), DenseSignal(drawn[0], drawn[1]), DenseSignal(drawn[2], drawn[1]))
    weights = drawn[3].softmax(-1)
    weights[1:3] = torch.eye(3)[:2]
    return MixtureSignal(
        tuple(part.part(0, len(teacher_lprobs)) for part in parts), weights.log()[: len(teacher_lprobs)], temperature
    )


def with_shapes(signal, teacher_lprobs):
    """The signal with three tail shapes; one of them is the teacher's own tail of the first token."""
    generator = torch.Generator().manual_seed(7)
    shapes = torch.randn(3, V, generator=generator, dtype=torch.float64)
    if len(signal):
        shapes[0] = teacher_lprobs[0].double().scatter(0, signal.ids[0], -30.0)
    shape_ids = torch.randint(0, 3, (len(signal),), generator=generator)
    shape_ids[:1] = 0
    return replace(signal, shapes=shapes.log_softmax(-1).float(), shape_ids=shape_ids)


def by_fused(x, w, target, signal, objective):
    """(Losses, d_features, d_projection)."""
    x, w = x.clone().requires_grad_(), w.clone().requires_grad_()
    sums = fused_loss(x, w, target, signal, objective)
    sums.loss.backward()
    return sums, x.grad, w.grad


def by_reference(x, w, target, signal, objective):
    x, w = x.clone().requires_grad_(), w.clone().requires_grad_()
    losses = reference_losses((x @ w.t()).log_softmax(-1), target, signal, objective)
    losses.loss.sum().backward()
    return losses, x.grad, w.grad


def objective_of(divergence, temperature, smoothing, weight):
    return Objective(weight, 1.7, smoothing, temperature, DIVERGENCES[divergence]())


@pytest.mark.parametrize(("divergence", "kind", "temperature", "smoothing", "weight"), GRID)
def test_fused_equals_reference_equals_finite_differences(divergence, kind, temperature, smoothing, weight):
    x, w, target, teacher = inputs()
    signal = signal_of(kind, teacher, temperature)
    objective = objective_of(divergence, temperature, smoothing, weight)
    sums, dx, dw = by_fused(x, w, target, signal, objective)
    losses, dx_reference, dw_reference = by_reference(x, w, target, signal, objective)
    for name in ("loss", "nll", "kd", "agreed", "correct"):
        expected = getattr(losses, name).sum().double()
        torch.testing.assert_close(getattr(sums, name).double(), expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(dx, dx_reference, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(dw, dw_reference, rtol=1e-9, atol=1e-12)
    generator, step = torch.Generator().manual_seed(1), 1e-5
    for gradient, place in ((dx, 0), (dw, 1)):
        direction = torch.randn(gradient.shape, generator=generator, dtype=torch.float64)
        ends = []
        for sign in (1, -1):
            moved = [x, w]
            moved[place] = moved[place] + sign * step * direction
            ends.append(fused_loss(*moved, target, signal, objective).loss.item())
        slope = (ends[0] - ends[1]) / (2 * step)
        # the difference of two losses of about 50 is known to 1e-14 / 1e-5
        assert slope == pytest.approx((gradient * direction).sum().item(), rel=1e-8, abs=1e-8)


def test_weights_that_differ_between_tokens():
    x, w, target, teacher = inputs()
    weights = torch.rand(N, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for divergence, kind in itertools.product(DIVERGENCES, ("dense", "top_k", "shaped")):
        objective, signal = objective_of(divergence, 2, 0.1, weights), signal_of(kind, teacher, 2)
        results = [f(x, w, target, signal, objective) for f in (by_fused, by_reference)]
        for ours, theirs in zip(results[0][1:], results[1][1:], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("weight", [0.3, 1.0])
@pytest.mark.parametrize("tau", [1, 2])
@pytest.mark.parametrize("divergence", ["kl", "reverse_kl", "js", "mse"])
def test_gradient_of_the_logits_is_the_one_worked_out_by_hand(divergence, tau, weight):
    """With the identity for a projection, the gradient of the features is the gradient of the logits."""
    _, _, target, teacher = inputs()
    z, eye = torch.randn(N, V, dtype=torch.float64, generator=torch.Generator().manual_seed(5)) * 2, torch.eye(V)
    signal = signal_of("top_k", teacher, tau)
    _, gradient, _ = by_fused(z, eye.double(), target, signal, objective_of(divergence, tau, 0.0, weight))
    for i in range(N):
        s, q = z[i].softmax(-1), (z[i] / tau).softmax(-1)
        gold = s.clone()
        gold[target[i]] -= 1
        named = signal.ids[i]
        others = torch.ones(V, dtype=torch.bool)
        others[named] = False
        p, p_rest, q_rest = signal.lprobs[i].exp(), signal.tail[i].exp(), q[others].sum()
        q_named = q[named]
        d = torch.zeros(V, dtype=torch.float64)
        if divergence == "kl":
            d[named], d[others] = (q_named - p) / tau, q[others] / tau * (1 - p_rest / q_rest)
        elif divergence == "reverse_kl":
            ratio, rest = (q_named / p).log(), (q_rest / p_rest).log()
            value = (q_named * ratio).sum() + q_rest * rest
            d[named], d[others] = q_named / tau * (ratio - value), q[others] / tau * (rest - value)
        elif divergence == "js":
            ratio, rest = (2 * q_named / (p + q_named)).log(), (2 * q_rest / (p_rest + q_rest)).log()
            value = (q_named * ratio).sum() + q_rest * rest
            d[named], d[others] = q_named / (2 * tau) * (ratio - value), q[others] / (2 * tau) * (rest - value)
        else:
            difference = z[i][named] / tau - signal.lprobs[i]
            d[named] = 2 / K * (difference - difference.mean()) / tau
        torch.testing.assert_close(gradient[i], (1 - weight) * gold + weight * 1.7 * d, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("temperature", [1, 2])
def test_with_each_tokens_own_tail_for_a_shape_the_whole_distribution_is_taught(temperature):
    x, w, target, teacher = inputs()
    dense = signal_of("dense", teacher, temperature)
    kept = dense.truncate(K)
    tails = dense.rows().scatter(-1, kept.ids, -40.0).log_softmax(-1)  # the values at the named tokens are left out
    signal = replace(kept, shapes=tails, shape_ids=torch.arange(N))
    objective = objective_of("kl", temperature, 0.1, 0.3)
    ours, theirs = (by_fused(x, w, target, each, objective) for each in (signal, dense))
    torch.testing.assert_close(ours[0].kd, theirs[0].kd, rtol=1e-9, atol=0)
    for one, other in zip(ours[1:], theirs[1:], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_gradient_of_the_logits_with_a_tail_shape_worked_out_by_hand():
    """Two of four tokens are named; the shape gives the others 3/10 and 1/10 of its mass: 3/4 and 1/4 of the tail."""
    shapes = torch.tensor([[0.5, 0.1, 0.3, 0.1], [0.25] * 4], dtype=torch.float64).log()
    ids, lprobs = torch.tensor([[1, 0]]), torch.tensor([[0.6, 0.2]], dtype=torch.float64).log()
    signal = TopKSignal(ids, lprobs, torch.tensor([0.2], dtype=torch.float64).log(), shapes, torch.tensor([0]))
    assert signal.rows().exp()[0].tolist() == pytest.approx([0.2, 0.6, 0.15, 0.05])
    eye = torch.eye(4, dtype=torch.float64)
    sums, gradient, _ = by_fused(torch.zeros_like(eye[:1]), eye, torch.tensor([3]), signal, Objective(kd_weight=1.0))
    assert gradient[0].tolist() == pytest.approx([0.05, -0.35, 0.1, 0.2])  # q - p, q = 1/4
    assert sums.kd.item() == pytest.approx(0.32356, abs=1e-5)  # ln 4 less the entropy 1.06274 of p


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("named", [1, V - 1])
def test_a_tail_of_nothing_gives_finite_losses_and_gradients(dtype, named):
    """All of the shape's mass lies on the named types, but for what float32 cannot tell from nothing."""
    x, w, target, teacher = inputs(dtype)
    kept = DenseSignal(teacher.float(), None).truncate(named)
    shapes = torch.full((1, V), 1e-12)
    shapes[0, kept.ids[0]] = 1.0
    signal = replace(kept, shapes=(shapes / shapes.sum()).log(), shape_ids=torch.zeros(N, dtype=torch.long))
    signal.tail[0] = SMALLEST_TAIL
    sums, dx, dw = by_fused(x, w, target, signal, Objective())
    assert all(bool(tensor.isfinite().all()) for tensor in (sums.loss, dx, dw))
    losses, *_ = by_reference(x.float(), w.float(), target, signal, Objective())
    assert sums.kd.item() == pytest.approx(losses.kd.sum().item(), rel=2e-2)


# float32: rounding. bfloat16 has 8 significant bits, float16 11; logits of about 10 are off by 0.02 and 0.003
@pytest.mark.parametrize(
    ("dtype", "loss_tolerance", "gradient_tolerance"),
    [(torch.float32, 1e-5, 1e-5), (torch.bfloat16, 1e-2, 3e-2), (torch.float16, 1e-3, 3e-3)],
)
@pytest.mark.parametrize("kind", ["dense", "top_k", "shaped", None])
def test_narrow_types_differ_by_their_rounding(dtype, loss_tolerance, gradient_tolerance, kind):
    x, w, target, teacher = inputs(dtype)
    signal = signal_of(kind, teacher.float())
    for divergence in DIVERGENCES:
        objective = objective_of(divergence, 1, 0.1, 0.3)
        sums, dx, dw = by_fused(x, w, target, signal, objective)
        wide = signal_of(kind, teacher.float().double())
        losses, dx_reference, dw_reference = by_reference(x.double(), w.double(), target, wide, objective)
        assert sums.loss.item() == pytest.approx(losses.loss.sum().item(), rel=loss_tolerance)
        for ours, theirs in ((dx, dx_reference), (dw, dw_reference)):
            assert ours.dtype == dtype
            assert (ours - theirs).abs().max() <= gradient_tolerance * theirs.abs().max()


@pytest.mark.parametrize("kind", ["top_k", "shaped", None])
def test_products_in_bfloat16_take_weights_of_the_tokens(kind):
    """A token of weight 0 leaves no gradient, and the others leave twice the gradient that they leave alone."""
    x, w, target, teacher = inputs(torch.bfloat16)
    x, w = x.float().requires_grad_(), w.float().requires_grad_()
    weight, some = torch.zeros(N), [0, 5, 6]
    weight[some] = 2.0
    arguments = (target, signal_of(kind, teacher.float()), Objective(), torch.bfloat16)
    weighted = torch.autograd.grad(fused_loss(x, w, *arguments, weight).loss, (x, w))
    arguments = (target[some], signal_of(kind, teacher[some].float()), Objective(), torch.bfloat16)
    alone = torch.autograd.grad(2 * fused_loss(x[some], w, *arguments).loss, (x, w))
    assert not weighted[0][weight == 0].any()
    for ours, theirs in zip(weighted, alone, strict=True):
        assert (ours - theirs).abs().max() <= 2e-2 * theirs.abs().max()


def test_gradients_too_small_for_float16_are_kept():
    """One of 20,000 tokens gets a gradient of about 1; the sum of the others, 5e-5 each, is right within 1 %."""
    x = torch.ones(1, 1, dtype=torch.float16)
    w = torch.zeros(20_000, 1, dtype=torch.float16)
    _, _, dw = by_fused(x, w, torch.tensor([0]), None, Objective())
    assert dw[1:].float().sum().item() == pytest.approx(1.0, rel=0.01)


def test_an_arriving_gradient_multiplies():
    x, w, target, teacher = inputs()
    x, w = x.requires_grad_(), w.requires_grad_()
    (3 * fused_loss(x, w, target, signal_of("top_k", teacher), Objective()).loss).backward()
    _, dx, dw = by_fused(x.detach(), w.detach(), target, signal_of("top_k", teacher), Objective())
    torch.testing.assert_close(x.grad, 3 * dx)
    torch.testing.assert_close(w.grad, 3 * dw)


def test_a_second_backward_pass_raises():
    x, w, target, _ = inputs()
    loss = fused_loss(x.requires_grad_(), w, target, None, Objective()).loss
    (2 * loss).backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_extreme_logits_give_finite_losses_and_gradients():
    _, w, target, teacher = inputs(torch.float32)
    x = torch.full((N, D), 300.0)  # the student is sure, and as a rule wrong
    for divergence, kind in itertools.product(DIVERGENCES, ("dense", "top_k", "shaped")):
        sums, dx, dw = by_fused(x, w, target, signal_of(kind, teacher.float()), objective_of(divergence, 1, 0.1, 0.5))
        assert all(bool(tensor.isfinite().all()) for tensor in (sums.loss, dx, dw)), (divergence, kind)


def test_no_tokens_give_no_loss_and_no_gradient():
    x, w, target, teacher = inputs()
    for kind in ("top_k", "shaped"):
        sums, dx, dw = by_fused(x[:0], w, target[:0], signal_of(kind, teacher[:0]), Objective())
        assert sums.loss.item() == 0 and dx.shape == (0, D) and not dw.any()


def test_order_of_the_tokens_changes_nothing_but_rounding():
    x, w, target, teacher = inputs()
    order = torch.randperm(N, generator=torch.Generator().manual_seed(3))
    sums, dx, dw = by_fused(x, w, target, signal_of("top_k", teacher), Objective())
    other, dx_other, dw_other = by_fused(x[order], w, target[order], signal_of("top_k", teacher[order]), Objective())
    torch.testing.assert_close(sums.loss, other.loss)
    torch.testing.assert_close(dx[order], dx_other)
    torch.testing.assert_close(dw, dw_other)


def test_nll_of_each_token():
    x, w, target, _ = inputs()
    expected = torch.nn.functional.cross_entropy(x @ w.t(), target, reduction="none")
    torch.testing.assert_close(token_nll(x, w, target), expected, rtol=1e-12, atol=1e-12)


def test_matrix_products_of_another_type_leave_the_gradients_theirs():
    x, w, target, teacher = inputs(torch.float32)
    x, w = x.requires_grad_(), w.requires_grad_()
    signal = signal_of("top_k", teacher.float())
    loss = fused_loss(x, w, target, signal, Objective(), torch.bfloat16).loss
    loss.backward()
    sums, dx, dw = by_fused(x.detach(), w.detach(), target, signal, Objective())
    assert loss.item() == pytest.approx(sums.loss.item(), rel=1e-2)
    assert loss.item() != sums.loss.item()
    for ours, theirs in ((x.grad, dx), (w.grad, dw)):
        assert ours.dtype == torch.float32
        assert (ours - theirs).abs().max() <= 3e-2 * theirs.abs().max()


def test_the_scale_of_a_float16_gradient_does_not_depend_on_the_number_of_rows(monkeypatch):
    """512 rows: a scale that left room for their sum (16) would round the probability e^-18 by 2 %."""
    monkeypatch.setattr(signals, "ROWS_AT_A_TIME", 512)
    x, w = torch.full((512, 1), 8.0, dtype=torch.float16), torch.tensor([[0.0], [0.0], [-2.25]], dtype=torch.float16)
    _, _, dw = by_fused(x, w, torch.zeros(512, dtype=torch.long), None, Objective())
    assert dw[2].item() == pytest.approx(512 * 8 * math.exp(-18) / 2, rel=2e-3)


def test_a_cuda_without_wide_products_is_announced_and_takes_the_way_of_the_cpu(caplog, monkeypatch):
    def cannot(*shape, **options):
        raise TypeError("mm() got an unexpected keyword argument 'out_dtype'")

    caplog.set_level("INFO")
    monkeypatch.setattr(products.torch, "ones", cannot)
    assert products.returns_float32.__wrapped__("cuda") is False
    assert "no half-precision product with a float32 result on cuda (mm() got an unexpected" in caplog.text


def test_float16_on_a_cpu_is_multiplied_in_float32():
    large = torch.full((2, 600), 16.0, dtype=torch.float16)  # 600 · 256 is above the largest float16
    out = products.multiply(large, large.t(), torch.empty(2, 2))
    assert out.tolist() == [[153600.0] * 2] * 2
    products.accumulate(out, large, large.t())
    assert out.tolist() == [[307200.0] * 2] * 2


def test_many_tokens_of_one_type_do_not_overflow_float16(monkeypatch):
    """512 rows push the same row of the projection: 512 · 0.5 · 8 = 2048, which leaves little room for a scale."""
    monkeypatch.setattr(signals, "ROWS_AT_A_TIME", 512)
    x, w = torch.full((512, 2), 8.0, dtype=torch.float16), torch.zeros(2, 2, dtype=torch.float16)
    _, _, dw = by_fused(x, w, torch.zeros(512, dtype=torch.long), None, Objective())
    torch.testing.assert_close(dw.float(), torch.tensor([[-2048.0, -2048.0], [2048.0, 2048.0]]), rtol=1e-3, atol=0)


@pytest.mark.parametrize("kind", ["dense", "top_k", "shaped", None])
@pytest.mark.parametrize("divergence", ["kl", "js", "tie"])
def test_a_weight_of_each_token_multiplies_its_loss_and_gradient_and_gets_a_gradient(kind, divergence):
    x, w, target, teacher = inputs()
    signal, objective = signal_of(kind, teacher, 2), objective_of(divergence, 2, 0.1, 0.3)
    weight = torch.rand(N, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    ours, theirs = ([t.clone().requires_grad_() for t in (x, w, weight)] for _ in range(2))
    sums = fused_loss(*ours[:2], target, signal, objective, weight=ours[2])
    losses = reference_losses((theirs[0] @ theirs[1].t()).log_softmax(-1), target, signal, objective)
    sums.loss.backward()
    (theirs[2] * losses.loss).sum().backward()
    torch.testing.assert_close(sums.nll, losses.nll.sum(), rtol=1e-10, atol=0)  # logged values have no weight
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ours[2].grad, losses.loss, rtol=1e-9, atol=0)


def test_weights_of_one_change_nothing_at_all():
    x, w, target, teacher = inputs(torch.float32)
    results = []
    for weight in (None, torch.ones(N)):
        leaves = [x.clone().requires_grad_(), w.clone().requires_grad_()]
        loss = fused_loss(*leaves, target, signal_of("dense", teacher), objective_of("kl", 1, 0.1, 0.3), weight=weight)
        loss.loss.backward()
        results.append([loss.loss.detach(), *(leaf.grad for leaf in leaves)])
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


def excluded_by_teacher(teacher, most=V - 3):
    """The teacher excludes entries at each position: none at the first, and all but three at the second."""
    count = torch.arange(N).remainder(6) * 2
    count[1] = most
    ranks = teacher.argsort(dim=-1).argsort(dim=-1)
    return teacher.masked_fill(ranks < count.unsqueeze(1), float("-inf")).log_softmax(-1)


@pytest.mark.parametrize(("divergence", "kind"), [(d, k) for d, k in PLACES if d != "reverse_kl"])
@pytest.mark.parametrize("temperature", [1, 2])
@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_types_that_the_teacher_excludes_leave_losses_and_gradients_finite(divergence, kind, temperature, weight):
    x, w, target, teacher = inputs()
    signal = signal_of(kind, excluded_by_teacher(teacher), temperature)
    objective = objective_of(divergence, temperature, 0.1, weight)
    sums, dx, dw = by_fused(x, w, target, signal, objective)
    losses, dx_reference, dw_reference = by_reference(x, w, target, signal, objective)
    assert all(bool(tensor.isfinite().all()) for tensor in (sums.loss, sums.kd, losses.loss, losses.kd, dx, dw))
    torch.testing.assert_close(sums.loss, losses.loss.sum(), rtol=1e-10, atol=0)
    torch.testing.assert_close(sums.kd, losses.kd.sum(), rtol=1e-10, atol=0)
    torch.testing.assert_close(dx, dx_reference, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(dw, dw_reference, rtol=1e-9, atol=1e-12)
    step = 1e-5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ends = [fused_loss(moved, w, target, signal, objective).loss.item() for moved in (x + step, x - step)]
    assert (ends[0] - ends[1]) / 2 == pytest.approx((dx * step).sum().item(), rel=1e-6, abs=1e-10)


@pytest.mark.parametrize(
    ("divergence", "kind"), [("kl", "dense"), *((d, "top_k") for d in ("kl", "js", "mse", "reverse_kl"))]
)
@pytest.mark.parametrize("temperature", [1, 2])
@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_logits_that_are_excluded_leave_losses_and_gradients_finite(divergence, kind, temperature, weight):
    """Logits of -inf, as a product in float16 can give."""
    from fairseq_kd.loss.chunk import Chunk, gold_gradient, losses_of, top_k

    x, w, target, teacher = inputs()
    teacher = excluded_by_teacher(teacher, most=10)
    signal, objective = signal_of(kind, teacher, temperature), objective_of(divergence, temperature, 0, weight)
    excluded = teacher == float("-inf")
    if kind == "top_k":
        excluded.scatter_(1, signal.ids, False)
        if divergence in ("js", "mse"):
            excluded[3, signal.ids[3, :2]] = True
            excluded[5] = torch.ones(V, dtype=torch.bool).scatter(0, signal.ids[5], False)  # nothing in the bucket
    target = (~excluded).double().cumsum(-1).argmax(-1)  # the last of the remaining tokens
    logits = (x @ w.t()).masked_fill(excluded, float("-inf")).requires_grad_()
    losses = reference_losses(logits.log_softmax(-1), target, signal, objective)
    (expected,) = torch.autograd.grad(losses.loss.sum(), logits)
    assert bool(losses.loss.isfinite().all()) and bool(expected.isfinite().all())
    z, *spare = logits.detach().clone(), torch.empty_like(logits), torch.empty_like(logits)
    chunk = Chunk(z, target, gold_gradient(objective, target, V, torch.float64, taught=True), spare.__getitem__)
    if kind == "dense":
        ours = objective.divergence.fused_dense(chunk, objective, signal, 0, N)
    else:
        closed = objective.divergence.fused_top_k
        terms = closed and closed(signal, objective, torch.float64)
        ours = top_k(chunk, objective, signal, terms and terms.of_rows(0, N))
        ours = ours._replace(kd=terms.divergence()) if terms else ours
    torch.testing.assert_close(losses_of(ours, objective, None, V), losses.loss.detach(), rtol=1e-10, atol=0)
    torch.testing.assert_close(ours.kd, losses.kd, rtol=1e-10, atol=0)
    torch.testing.assert_close(z, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("weight", [0.0, 1.0, torch.tensor([0.0, 1.0], dtype=torch.float64)])
def test_what_has_no_weight_is_not_in_the_loss_even_if_it_is_infinite(weight):
    """Gold tokens with the student's probability 1/2 and 0; the teacher has the 0 of the second token for sure."""
    lprobs = torch.tensor([[0.5, 0.0, 0.5], [0.5, 0.0, 0.5]], dtype=torch.float64).log()
    for target, probs, expected in (
        ([0, 0], [[0.0, 1.0, 0.0], [0.5, 0.0, 0.5]], {0.0: [0.5, 0.5], "rows": [0.5, 1.0]}),  # kd: inf, 0
        ([1, 1], [[0.5, 0.0, 0.5], [0.5, 0.0, 0.5]], {1.0: [1.0, 1.0]}),  # nll: inf, inf; kd: 0, 0
    ):
        key = "rows" if isinstance(weight, torch.Tensor) else weight
        if key in expected:
            teacher = DenseSignal(torch.tensor(probs, dtype=torch.float64).log(), None)
            losses = reference_losses(lprobs, torch.tensor(target), teacher, Objective(weight))
            torch.testing.assert_close(losses.loss, -torch.tensor(expected[key], dtype=torch.float64).log())


class Operations(TorchDispatchMode):
    """Counts what torch computes while it is entered, without views."""

    def __init__(self):
        super().__init__()
        self.counts = collections.Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if not function.is_view:
            self.counts[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


def operations(kind, rows=N, dtype=torch.float32, gradient=True):
    x, w, target, teacher = inputs(dtype)
    x, w, target, signal = x[:rows], w.requires_grad_(), target[:rows], signal_of(kind, teacher.float()[:rows])
    with torch.set_grad_enabled(gradient), Operations() as found:
        fused_loss(x.requires_grad_(), w, target, signal, Objective(label_smoothing=0.1))
    return found.counts


@pytest.mark.parametrize("kind", ["dense", "top_k", "shaped", None])
def test_validation_multiplies_once_a_chunk_and_training_three_times(kind):
    """8 rows against 4: one chunk more. The products that do not grow with the chunks are small."""
    counts = [operations(kind, rows, gradient=gradient) for gradient in (False, True) for rows in (8, 4)]
    two, one, two_trained, one_trained = (found["mm"] + found["addmm"] + found["addmm_"] for found in counts)
    assert (two - one, two_trained - one_trained) == (1, 3)


def test_losses_without_a_gradient_are_those_with_one():
    for kind in ("dense", "top_k", "shaped", None):
        x, w, target, teacher = inputs()
        with_gradient = fused_loss(x.requires_grad_(), w, target, signal_of(kind, teacher), Objective())
        with torch.no_grad():
            without = fused_loss(x, w, target, signal_of(kind, teacher), Objective())
        assert not without.loss.requires_grad and torch.equal(without.loss, with_gradient.loss.detach())
        assert torch.equal(without.nll, with_gradient.nll) and torch.equal(without.correct, with_gradient.correct)


@pytest.mark.parametrize(("kind", "most"), [("shaped", 32), ("top_k", 36), ("dense", 36), (None, 18)])
def test_a_chunk_is_few_operations(kind, most):
    """Each of them is one launch or more on a GPU. Autograd of the readable definition took 90 to 130."""
    for dtype in (torch.float32, torch.bfloat16):
        two, one = (sum(operations(kind, rows, dtype).values()) for rows in (8, 4))
        assert two - one <= most, (dtype, two - one)


def test_chunks_are_large_on_cuda_where_launching_a_kernel_takes_longer_than_a_small_chunk():
    assert [signals.rows_at_a_time(torch.device("cuda"), size) for size in (10_000, 32_000)] == [6656, 2048]
    assert signals.rows_at_a_time(torch.device("cuda"), 10**8) == signals.ROWS_AT_A_TIME
    assert signals.rows_at_a_time(torch.device("cpu"), 10_000) == signals.ROWS_AT_A_TIME
