"""Noise in a list of sentences, in memory: evaluation sets."""

from collections import Counter
from collections.abc import Sequence

from fairseq_kd.errors import KDError
from fairseq_kd.noise.block import BLOCK_LINES
from fairseq_kd.noise.levels import TextLevel
from fairseq_kd.noise.options import NoiseOptions, check_seed
from fairseq_kd.noise.vocabulary import Vocabulary


def noise_lines(
    lines: Sequence[str], options: NoiseOptions, seed: int, *, side: str = "source", subword=None, like=None
) -> list[str]:
    """The lines with noise, as `fairseq-kd noise` writes them for a file that holds them.

    subword: a model of `corpus.subword`, for level subword. like: lines whose units are the substitutes (default: the
    lines themselves). Raises KDError for a negative seed, and when there is nothing to substitute by.
    """
    check_seed(seed)
    if any("\n" in line for line in lines):
        raise KDError("a sentence holds a newline: each must be one line")
    level = TextLevel(options.level, subword)
    blocks = [("\n".join(lines[at : at + BLOCK_LINES]) + "\n").encode() for at in range(0, len(lines), BLOCK_LINES)]
    vocabulary = None
    if options.substitute:
        counts = Counter()
        for block in blocks if like is None else [("\n".join(like) + "\n").encode()]:
            level.count(block, counts)
        vocabulary = Vocabulary.of(counts, options.substitute_from, "the text")
    noised = []
    for number, block in enumerate(blocks):
        data, _, _ = level.noise(
            block, options, seed=seed, side=("source", "target").index(side), block_number=number, vocabulary=vocabulary
        )
        noised += data.decode().split("\n")[:-1]
    return noised
