"""What --autocast bfloat16 does to the quality of a student: pairs of trainings that differ in it alone.

Usage: python benchmarks/precision.py DATA_BIN --recipe synthetic --margin 0.02 --out DIR [--seeds 3] [--first-seed 1]
    [--model student] [--teacher-cache DIR]

For each seed a model of a recipe of the quickstart (its student or its teacher) is trained twice, in float32 and with
--autocast bfloat16, with the same initial weights and batches, side by side on one thread each. Without --teacher-cache
it learns from the gold tokens alone (--kd-weight 0), else from the cache. The same command continues.

Printed: the validation nll (bits per token, computed in float32) and BLEU of the test set for each training; the mean
differences with their 95 % intervals, the p value of two one-sided t-tests of equivalence of nll within the margin, and
how many pairs the margin needs for a power of 80 %, so that a pilot with few seeds can be followed by enough new ones.
"""

import argparse
import concurrent.futures
import json
import os
import re
from pathlib import Path

from fairseq_kd.artifacts.hashes import sha256_file
from fairseq_kd.artifacts.manifest import MANIFEST_NAME
from fairseq_kd.artifacts.writing import write_json
from fairseq_kd.evaluation.api import evaluate_checkpoint
from fairseq_kd.evaluation.estimates import ALPHA, POWER, Estimate, over_seeds
from fairseq_kd.quickstart.recipe import find_recipe, load_recipe
from fairseq_kd.training.arguments import CROSS_ENTROPY, training_arguments
from fairseq_kd.training.run import train


def nll_of(log: Path) -> float:
    """The best validation nll of a training, in bits per token."""
    found = re.findall(r'"valid_nll_loss": "([\d.]+)"', log.read_text(encoding="utf-8"))
    return min(map(float, found))


def run(args, recipe, precision: str, seed: int) -> dict:
    """Train and score one student."""
    options = dict(recipe.common) | getattr(recipe, args.model) | {"seed": seed} | CROSS_ENTROPY
    if args.teacher_cache:
        options |= dict(recipe.kd) | {"teacher-cache": args.teacher_cache}
    if precision != "float32":
        options["autocast"] = precision
    folder = args.out / f"{precision}-{seed}"
    words = training_arguments(args.data_bin, args.source_lang, args.target_lang, options, cpu=True)
    inputs = {"data": sha256_file(args.data_bin / MANIFEST_NAME)}
    record = train(folder, words, inputs, int(options["max-update"]), f"{precision} seed {seed}")
    result = folder / "scores.json"
    if not result.is_file():
        scores = evaluate_checkpoint(args.data_bin, record["checkpoint"], cpu=True, resamples=0)
        write_json(result, {"bleu": scores["bleu"]["score"]})  # never half written
    return {"nll": nll_of(folder / "train.log"), "seconds": record["seconds"], **json.loads(result.read_text())}


def pairs_needed(scatter: float, margin: float) -> int:
    """Pairs with which two one-sided tests find equivalence with the probability POWER, if there is no difference.

    scatter: the standard deviation of a difference, above 0.
    """
    pairs = 2
    while Estimate(0.0, scatter / pairs**0.5, pairs - 1, pairs).smallest_margin(ALPHA) > margin:
        pairs += 1
    return pairs


def main() -> None:
    """Train the pairs and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_bin", type=Path)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--margin", type=float, required=True, help="of nll, in bits per token")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--model", choices=("student", "teacher"), default="student")
    parser.add_argument("--teacher-cache", type=Path)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    recipe = load_recipe(find_recipe(args.recipe))
    args.source_lang, args.target_lang = recipe.data["source-lang"], recipe.data["target-lang"]
    rows = []
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            jobs = [pool.submit(run, args, recipe, precision, seed) for precision in ("float32", "bfloat16")]
            exact, narrow = (job.result() for job in jobs)
            rows.append((exact, narrow))
            print(
                f"seed {seed}: nll {exact['nll']:.3f} {narrow['nll']:.3f}   "
                f"BLEU {exact['bleu']:.2f} {narrow['bleu']:.2f}   "
                f"seconds {exact['seconds']:.0f} {narrow['seconds']:.0f}",
                flush=True,
            )
    for name, digits in (("nll", 4), ("bleu", 2)):
        differences = [narrow[name] - exact[name] for exact, narrow in rows]
        found = over_seeds(differences)
        low, high = found.interval() or (found.value, found.value)
        value, low, high = (f"{number:+.{digits}f}" for number in (found.value, low, high))
        print(f"{name}: bfloat16 - float32 = {value}, 95 % interval {low} to {high}")
        if name == "nll":
            scatter = found.error * len(rows) ** 0.5
            print(
                f"    equivalent within {args.margin}: p = {found.within(args.margin):.4f}; scatter of a difference "
                f"{scatter:.4f}; pairs needed for a power of {POWER}: {pairs_needed(scatter, args.margin)}"
            )


if __name__ == "__main__":
    main()
