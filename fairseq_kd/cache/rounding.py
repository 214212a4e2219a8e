"""The error that a teacher in half precision adds to a cache, measured on a sample of its tokens.

The stored entries and tail are compared with the same outcomes of the teacher in float32. So the error includes the
rounding of the stored values (`--store`), but not the mass that a tail does not distribute.
"""

from collections.abc import Callable

import numpy as np
import torch

from fairseq_kd.artifacts.blocks import offsets_of
from fairseq_kd.cache.tail_shapes import evenly_spaced
from fairseq_kd.cache.values import Rows, rebuild
from fairseq_kd.core.progress import Progress
from fairseq_kd.loss.rows import bucket, kl, temper
from fairseq_kd.loss.signal import ROWS_AT_A_TIME

TOKENS = 2000


def measure_rounding(exact, compute, stored: Callable[[np.ndarray], Rows]) -> dict:
    """{"sentences", "tokens", "temperature", "largest", "kl", "same_first"} of evenly spaced sentences.

    largest: absolute deviation of a stored log-probability, in nats. kl: mean KL(float32 || stored) over the tokens, in
    nats. same_first: share of the tokens whose most probable entry is the same.
    exact: the teacher in float32, or the mixture of the teachers. compute: the `TeacherRows` of the cache. stored: see
    `writer.Measure`.
    """
    chosen = evenly_spaced(compute.sizes, TOKENS)
    temperatures = compute.format.temperatures
    column = temperatures.index(1.0) if 1.0 in temperatures else 0
    offsets, found = offsets_of(compute.sizes), []
    progress = Progress("comparing with float32", len(chosen), "sentences")
    for sentences in compute.batches(chosen):
        sample, keep = compute.collate(sentences)
        signal, kept = exact.signal(sample, keep), keep.cpu().numpy()
        places = offsets[sample["id"].cpu().numpy()][:, None] + kept.cumsum(axis=1) - 1
        rows = stored(places[kept])
        for start in range(0, len(signal), ROWS_AT_A_TIME):
            end = start + ROWS_AT_A_TIME
            lprobs = temper(signal.rows(start, end).cpu(), temperatures[column])  # (n, V)
            part = [
                torch.from_numpy(array[start:end].astype(kind))
                for array, kind in ((rows.ids, np.int64), (rows.delta, np.float32), (rows.tail[:, column], np.float32))
            ]
            found.append(_deviations(lprobs, *part, temperatures[column]))
        progress.advance(len(sentences))
    progress.finish()
    largest, divergence, same = (torch.cat(values) for values in zip(*found, strict=True))
    return {
        "sentences": len(chosen),
        "tokens": len(largest),
        "temperature": temperatures[column],
        "largest": float(largest.max()),
        "kl": float(divergence.double().mean()),
        "same_first": float(same.double().mean()),
    }


def _deviations(lprobs, ids, delta, tail, temperature: float) -> tuple[torch.Tensor, ...]:
    """(largest deviation of a log-probability, KL(lprobs || stored), whether the first entry is the same), (n,) each.

    lprobs (n, V) at the temperature; ids, delta (n, k) and tail (n,) as they are stored.
    """
    kept, rest = rebuild(delta, tail, temperature)
    if ids.size(1) < lprobs.size(1):
        outcomes, kept = bucket(lprobs, ids), torch.cat([kept, rest.unsqueeze(1)], dim=1)  # (n, k + 1)
    else:
        outcomes = lprobs.gather(1, ids)
    deviation = (outcomes - kept)[:, : ids.size(1)].abs().amax(dim=1)
    return deviation, kl(outcomes, kept), lprobs.argmax(dim=1) == ids[:, 0]


def describe_rounding(manifest: dict) -> list[str]:
    """The line about the error for the summary of the command; none for a cache without the entry."""
    if (found := manifest.get("rounding")) is None:
        return []
    at = "" if found["temperature"] == 1 else f" at temperature {found['temperature']:g}"
    return [
        f"    {manifest['teacher']['dtype']} against float32{at}, on {found['tokens']:,} tokens: largest deviation of "
        f"a log-probability {found['largest']:.3g} nats, KL {found['kl']:.2g} nats per token, the same most probable "
        f"entry at {100 * found['same_first']:.1f} % of the tokens"
    ]
