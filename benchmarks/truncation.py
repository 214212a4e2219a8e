"""How much of the teacher's term is left when a cache keeps k entries and the mass of the others?

Usage: python benchmarks/truncation.py DATA_BIN --teacher T --student S [--subset valid] [--sentences 500]

Printed for each k: KL(teacher || student) in bits per token over k + 1 outcomes; its ratio to the divergence over the
whole vocabulary; the ratio with 64 tail shapes, fitted to the sentences of the subset that are not measured; that
without anything for the others (the k entries renormalised); and the bytes per token of a cache with tail shapes, with
one and with three temperatures.
"""

import argparse

import numpy as np
import torch

from fairseq_kd.cache.format import CacheFormat
from fairseq_kd.cache.options import TAIL_SHAPES
from fairseq_kd.cache.tail_shapes import affinity, fit
from fairseq_kd.inference.frozen import load_frozen
from fairseq_kd.inference.loading import load_pair
from fairseq_kd.loss.rows import bucket, kl
from fairseq_kd.loss.signal import TopKSignal

SIZES = (1, 2, 4, 8, 16, 32, 64)
BITS = np.log(2)


def batches(task, subset: str, start: int, end: int):
    """Batches of the sentences from start to before end, by length, and the mask of their target tokens."""
    dataset = task.dataset(subset)
    order = start + np.argsort(dataset.tgt_sizes[start:end], kind="stable")
    for first in range(0, len(order), 50):
        sample = dataset.collater([dataset[int(i)] for i in order[first : first + 50]])
        yield sample, sample["target"].ne(task.target_dictionary.pad())


def shaped(kept: TopKSignal, lprobs: torch.Tensor, shapes: torch.Tensor) -> torch.Tensor:
    """Log-probabilities (N, V): the k entries, and a tail of the shape nearest to the teacher's lprobs (N, V)."""
    shape_ids = affinity(lprobs, kept.ids, shapes.mul(0.5).exp()).argmax(dim=-1)
    return TopKSignal(kept.ids, kept.lprobs, kept.tail, shapes, shape_ids).rows()


@torch.no_grad()
def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_bin")
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--student", required=True)
    parser.add_argument("--subset", default="valid")
    parser.add_argument("--sentences", type=int, default=500)
    args = parser.parse_args()
    teacher, task = load_pair(args.data_bin, args.teacher, args.subset, data=args.data_bin)
    languages = (task.cfg.source_lang, task.cfg.target_lang)
    student = load_frozen(args.student, data=args.data_bin, languages=languages)
    others = batches(task, args.subset, args.sentences, len(task.dataset(args.subset)))
    sample = [teacher.signal(*batch).rows() for batch in others]
    shapes = {k: fit(sample, k, (1.0,), TAIL_SHAPES)[0] for k in SIZES}
    whole, tokens = 0.0, 0
    truncated, modelled, renormalised = (dict.fromkeys(SIZES, 0.0) for _ in range(3))
    for sample, keep in batches(task, args.subset, 0, args.sentences):
        signal, lprobs = teacher.signal(sample, keep), student.signal(sample, keep).rows()
        whole, tokens = whole + kl(signal.rows(), lprobs).sum().item(), tokens + len(lprobs)
        for k in SIZES:
            kept = signal.truncate(k)
            truncated[k] += kl(kept.buckets(), bucket(lprobs, kept.ids)).sum().item()
            modelled[k] += kl(shaped(kept, signal.rows(), shapes[k]), lprobs).sum().item()
            alone = kept.lprobs.log_softmax(dim=-1)
            renormalised[k] += kl(alone, lprobs.gather(-1, kept.ids)).sum().item()
    types = len(task.target_dictionary)
    print(f"{tokens:,} tokens, V = {types:,}; whole distribution {whole / tokens / BITS:.4f} bits")
    print(f"{'k':>3}{'bits':>9}{'ratio':>8}{'shapes':>8}{'renormalised':>14}{'bytes, T = 1':>14}{'three T':>9}")
    for k in SIZES:
        sizes = [CacheFormat(k, ts, types, tail_shapes=TAIL_SHAPES) for ts in ((1.0,), (1.0, 2.0, 4.0))]
        one, three = (size.bytes_per_token() for size in sizes)
        bits, ratios = truncated[k] / tokens / BITS, [sums[k] / whole for sums in (truncated, modelled, renormalised)]
        print(f"{k:>3}{bits:>9.4f}{ratios[0]:>8.3f}{ratios[1]:>8.3f}{ratios[2]:>14.3f}{one:>14}{three:>9}")


if __name__ == "__main__":
    main()
