"""Noise in a list of sentences, in memory: evaluation sets."""

from collections.abc import Sequence

from fairseq_kd.errors import KDError
from fairseq_kd.noise.block import BLOCK_LINES
from fairseq_kd.noise.options import NoiseOptions
from fairseq_kd.noise.side import NoisySide
from fairseq_kd.noise.text_level import TextLevel


def noise_lines(
    lines: Sequence[str], options: NoiseOptions, seed: int, *, side: str = "source", subword=None, like=None
) -> list[str]:
    """The lines with noise, as `fairseq-kd noise` gives them to a file that holds them; see `noise_and_count`."""
    return noise_and_count(lines, options, seed, side=side, subword=subword, like=like)[0]


def noise_and_count(
    lines: Sequence[str], options: NoiseOptions, seed: int, *, side: str = "source", subword=None, like=None
) -> tuple[list[str], dict]:
    """(the lines with noise, what was done: `NoisySide.report`).

    subword: a model of `corpus.subword`, for level subword. like: lines whose units are the substitutes (default: the
    lines themselves). Raises KDError for a negative seed, and when there is nothing to substitute by.
    """
    if any("\n" in line for line in lines):
        raise KDError("a sentence holds a newline: each must be one line")
    noisy = NoisySide(TextLevel(options, subword), seed, side)
    if options.substitute:
        noisy.count(_blocks(lines if like is None else like), "the text")
    found = [
        line for _, noised in noisy.noise(_blocks(lines)) for line in noised.data.tobytes().decode().split("\n")[:-1]
    ]
    return found, noisy.report()


def _blocks(lines: Sequence[str]):
    for at in range(0, len(lines), BLOCK_LINES):
        yield "".join([line + "\n" for line in lines[at : at + BLOCK_LINES]]).encode()
