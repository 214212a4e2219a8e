"""What is lost when caches of several teachers are mixed, compared with the mixture of the running teachers?

Usage: python benchmarks/mixed_caches.py DATA_BIN --teacher A:B --caches CA:CB --one CM [--subset valid]

CA and CB are caches of A and of B, CM is one cache of their mixture with equal weights, all of the subset and with the
temperatures 1 and 2. Printed for each temperature: KL(mixture of the running teachers || distribution from the caches)
in nats per token, over the whole vocabulary, and the seconds per 1,000 tokens that the distribution from the caches
takes.
"""

import argparse
import time

import torch

from fairseq_kd.inference.loading import load_members
from fairseq_kd.inference.mixed import MixedModels
from fairseq_kd.inference.opening import gold_batches
from fairseq_kd.loss.rows import kl, temper
from fairseq_kd.loss.weights import Weighting
from fairseq_kd.teacher.cached_mixture import open_caches


@torch.no_grad()
def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_bin")
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--caches", required=True)
    parser.add_argument("--one", required=True)
    parser.add_argument("--subset", default="valid")
    args = parser.parse_args()
    members, task = load_members(args.data_bin, args.teacher.split(":"), args.subset, data=args.data_bin)
    teachers, pad = MixedModels(members, Weighting()), task.target_dictionary.pad()
    for temperature in (1.0, 2.0):
        how = {"temperature": temperature, "weighting": Weighting(), "subset": args.subset}
        sources = {"one cache": open_caches(args.one, task, **how), "caches": open_caches(args.caches, task, **how)}
        sums, seconds, tokens = dict.fromkeys(sources, 0.0), dict.fromkeys(sources, 0.0), 0
        for sample, keep in gold_batches(task.dataset(args.subset), pad, torch.device("cpu"), "comparing"):
            exact = temper(teachers.signal(sample, keep).rows(), temperature)
            tokens += len(exact)
            for name, source in sources.items():
                started = time.perf_counter()
                rows = source.signal(sample, keep, temperature).rows()
                seconds[name] += time.perf_counter() - started
                sums[name] += kl(exact, rows).sum(dtype=torch.float64).item()
        for name in sources:
            per_token, spent = sums[name] / tokens, 1000 * seconds[name] / tokens
            print(f"T = {temperature:g}  {name:9}  KL {per_token:.5f} nats per token  {spent:.2f} s per 1,000 tokens")


if __name__ == "__main__":
    main()
