"""Tail shapes: fitted to tails whose shapes are known."""

import numpy as np
import pytest
import torch

from fairseq_kd.cache.tail_shapes import LARGEST_SAMPLE, UNIFORM, affinity, fit, sample_sentences

V = 10
# entry 0 has the rest of the mass, and k = 1 names it; the tails lie on entries 1 to 3, or on 4 to 6
KINDS = torch.tensor([[0.0, 0.5, 0.25, 0.25, 0, 0, 0, 0, 0, 0], [0.0, 0, 0, 0, 0.8, 0.1, 0.1, 0, 0, 0]])


def teacher(kinds, masses):
    """Log-probabilities (n, V) of tokens with these kinds of tail, of these masses."""
    probs = KINDS[torch.tensor(kinds)] * torch.tensor(masses).unsqueeze(1)
    probs[:, 0] = 1 - probs.sum(dim=1)
    return probs.log()


def test_each_kind_of_tail_has_its_shape():
    kinds, masses = [0, 1, 1, 0, 1], [0.2, 0.3, 0.1, 0.4, 0.05]
    lprobs = teacher(kinds, masses)
    (shapes,) = fit([lprobs[:2], lprobs[2:]], k=1, temperatures=(1.0,), count=4).exp()
    groups = affinity(lprobs, torch.zeros(5, 1, dtype=torch.long), shapes.sqrt()).argmax(dim=1)
    expected = (1 - UNIFORM) * KINDS[torch.tensor(kinds)] + UNIFORM / V
    torch.testing.assert_close(shapes[groups], expected, atol=5e-4, rtol=0)  # the sample is float16


def test_a_shape_at_another_temperature_is_the_mean_of_its_tails_there_weighed_by_their_mass():
    """One shape. At T = 1/2 the tails' masses are as the squares: 0.06 and 0.0066 beside 0.36 and 0.81."""
    lprobs = teacher([0, 1], [0.4, 0.1])
    shapes = fit([lprobs], k=1, temperatures=(0.5, 1.0), count=1).exp()
    tails = torch.tensor([[4, 1, 1, 0, 0, 0], [0, 0, 0, 64, 1, 1.0]])
    tails /= tails.sum(dim=1, keepdim=True)
    masses = torch.tensor([0.06 / 0.42, 0.0066 / 0.8166])
    mean = masses @ tails / masses.sum()
    expected = (1 - UNIFORM) * mean + UNIFORM / V
    torch.testing.assert_close(shapes[0, 0, 1:7], expected, atol=5e-4, rtol=0)
    mean = torch.tensor([0.4, 0.2, 0.2, 0.16, 0.02, 0.02])  # at T = 1: 0.8 of the first, 0.2 of the second
    torch.testing.assert_close(shapes[1, 0, 1:7], (1 - UNIFORM) * mean + UNIFORM / V, atol=5e-4, rtol=0)


def test_more_shapes_than_tails_and_tails_of_no_mass_are_finite():
    lprobs = teacher([0, 1], [0.4, 0.0])
    shapes = fit([lprobs], k=1, temperatures=(1.0,), count=8)
    assert shapes.isfinite().all()
    torch.testing.assert_close(shapes.exp().sum(dim=-1), torch.ones(1, 8))
    assert fit([teacher([0], [0.0])], k=1, temperatures=(1.0,), count=2).isfinite().all()


def test_the_same_sample_gives_the_same_shapes():
    lprobs = torch.randn(700, 40, generator=torch.Generator().manual_seed(1)).mul(2).log_softmax(dim=-1)
    one, other = (fit(lprobs.split(512), k=4, temperatures=(1.0, 2.0), count=16) for _ in range(2))
    assert torch.equal(one, other)


@pytest.mark.parametrize("sizes", [np.full(10_000, 10), np.full(7, 5), np.array([1]), np.arange(1, 5000)])
def test_the_sample_is_evenly_spaced_and_about_so_large(sizes):
    chosen = sample_sentences(sizes, types=100)
    assert len(set(chosen.tolist())) == len(chosen) and chosen[0] == 0
    assert np.diff(chosen, n=2).max(initial=0) <= 1  # gaps differ by one at most
    tokens = min(LARGEST_SAMPLE, sizes.sum())
    assert tokens - 10_000 / len(chosen) <= sizes[chosen].sum() <= 1.01 * tokens + sizes.max()


def test_a_large_vocabulary_has_a_smaller_sample():
    assert len(sample_sentences(np.full(10_000, 10), types=1 << 17)) == 205  # 2^28 / 2^17 / 10
