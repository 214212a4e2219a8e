"""How much of the teacher's term is left when a cache keeps k types and the mass of the others?

Usage: python benchmarks/truncation.py DATA_BIN --teacher T --student S [--subset valid] [--sentences 500]

Printed for each k: KL(teacher || student) in bits a token over k + 1 outcomes, its ratio to that over the whole
vocabulary, the same without the bucket for the others (the k types renormalised), and the bytes a token of a cache
with one and with three temperatures.
"""

import argparse

import numpy as np
import torch

from fairseq_kd.loss.divergence import bucket, forward_kl
from fairseq_kd.teacher.cache import CacheFormat
from fairseq_kd.teacher.loading import load_teacher
from fairseq_kd.teacher.opening import load_pair

SIZES = (1, 2, 4, 8, 16, 32, 64)
BITS = np.log(2)


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
    student, dataset = load_teacher(args.student, data=args.data_bin, languages=languages), task.dataset(args.subset)
    whole, tokens = 0.0, 0
    truncated, renormalised = (dict.fromkeys(SIZES, 0.0) for _ in range(2))
    order = np.argsort(dataset.tgt_sizes[: args.sentences], kind="stable")
    for start in range(0, len(order), 50):
        sample = dataset.collater([dataset[int(i)] for i in order[start : start + 50]])
        keep = sample["target"].ne(task.target_dictionary.pad())
        signal, lprobs = teacher.signal(sample, keep), student.signal(sample, keep).rows()
        whole, tokens = whole + forward_kl(lprobs, signal.rows()).sum().item(), tokens + len(lprobs)
        for k in SIZES:
            kept = signal.truncate(k)
            truncated[k] += forward_kl(bucket(lprobs, kept.ids), kept.buckets()).sum().item()
            alone = kept.lprobs.log_softmax(dim=-1)
            renormalised[k] += forward_kl(lprobs.gather(-1, kept.ids), alone).sum().item()
    types = len(task.target_dictionary)
    print(f"{tokens:,} tokens, V = {types:,}; whole distribution {whole / tokens / BITS:.4f} bits")
    print(f"{'k':>3}{'bits':>9}{'ratio':>8}{'renormalised':>14}{'bytes, T = 1':>14}{'three T':>9}")
    for k in SIZES:
        sizes = [CacheFormat(k, temperatures, types) for temperatures in ((1.0,), (1.0, 2.0, 4.0))]
        one, three = (size.bytes_a_token() for size in sizes)
        bits, alone = truncated[k] / tokens / BITS, renormalised[k] / whole
        print(f"{k:>3}{bits:>9.4f}{truncated[k] / whole:>8.3f}{alone:>14.3f}{one:>14}{three:>9}")


if __name__ == "__main__":
    main()
