"""The target positions of a batch that count, and values at these positions."""

import torch


def places_of(keep: torch.Tensor) -> torch.Tensor:
    """The numbers of the N positions where `keep` (B, T) is true, in row-major order, (N,).

    Computed once per batch and before the student runs: on CUDA it waits, and then nothing is queued yet.
    """
    return keep.flatten().nonzero().squeeze(1)


def rows_at(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """`values` (B, T, ...) at the N places, (N, ...). A mask would count its places again, in the backward pass too."""
    return values.flatten(0, 1).index_select(0, places)


def scatter(values: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """`values` (N,) at the N places where `keep` is true, 0 elsewhere; (B * T, 1)."""
    zeros = torch.zeros(keep.shape, dtype=values.dtype, device=values.device)
    return zeros.masked_scatter(keep, values).view(-1, 1)
