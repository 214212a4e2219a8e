"""Where a command runs, and which share of the work it does."""

import os

import torch

from fairseq_kd.errors import KDError


def choose_device(cpu: bool) -> torch.device:
    """The CUDA device of this process (under torchrun the local rank's), or the CPU."""
    if cpu or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


def parse_shard(text: str | None) -> tuple[int, int]:
    """ "1/4" -> (1, 4). None: the rank and number of processes under torchrun, else everything.

    Raises KDError for anything else.
    """
    if text is None:
        return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise KDError(f"--shard {text}: give I/N with I from 0 to N - 1, such as 0/4, 1/4, 2/4 and 3/4")
    return int(index), int(count)
