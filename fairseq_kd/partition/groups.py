"""Groups of sentences, such as topics and domains, are divided among parts."""

import numpy as np

from fairseq_kd.core.errors import KDError
from fairseq_kd.partition.options import PartitionOptions
from fairseq_kd.partition.shares import deal_groups, share_groups

DRAWS = 1_000  # so often a draw that leaves a part too small is repeated


def generator(seed: int, *names: str) -> np.random.Generator:
    """The random numbers of one purpose: independent for each name."""
    return np.random.default_rng([seed, *" ".join(names).encode()])


def divide_groups(groups: np.ndarray, number: int, name: str, options: PartitionOptions) -> tuple:
    """(part of each sentence, table (groups, parts)) by Dirichlet shares of each group.

    A draw that leaves a part with fewer sentences than `min_sentences` is repeated. Raises KDError after DRAWS draws.
    """
    sizes, rng = np.bincount(groups, minlength=number), generator(options.seed, name)
    for _ in range(DRAWS):
        table = share_groups(sizes, options.alpha, options.parts, rng)
        if table.sum(axis=0).min() >= options.min_sentences:
            return deal_groups(groups, table, rng), table
    raise KDError(
        f"--alpha {options.alpha:g}: each of {DRAWS:,} draws leaves a part with fewer sentences than --min-sentences "
        f"{options.min_sentences}, because a small alpha puts most of a group into one part and there are {number} "
        f"groups for {options.parts} parts: give a larger --alpha, more groups or fewer --parts"
    )


def whole_groups(groups: np.ndarray, number: int, parts: int) -> tuple[np.ndarray, np.ndarray]:
    """(part of each sentence, table): whole groups, the largest first, each to the part with the fewest sentences.

    Raises KDError for fewer groups than parts.
    """
    if number < parts:
        raise KDError(
            f"--domains has {number} different labels, and --parts {parts} needs at least as many, because whole "
            "domains go to parts: give fewer --parts, or --alpha to divide each domain"
        )
    sizes, table = np.bincount(groups, minlength=number), np.zeros((number, parts), dtype=np.int64)
    for group in np.argsort(-sizes, kind="stable"):
        table[group, np.argmin(table.sum(axis=0))] = sizes[group]
    return np.argmax(table, axis=1)[groups], table
