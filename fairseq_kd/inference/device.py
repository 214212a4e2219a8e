"""Where a command runs, and which share of the work it does."""

import os

import torch

from fairseq_kd.core.errors import KDError


def choose_device(cpu: bool) -> torch.device:
    """The CUDA device of this process (under torchrun the local rank's), or the CPU.

    A process that sees one device takes it, whatever its local rank: schedulers give each rank one of its own by
    CUDA_VISIBLE_DEVICES. Raises KDError when there are several, but none of the local rank's number.
    """
    if cpu or not torch.cuda.is_available():
        return torch.device("cpu")
    count, rank = torch.cuda.device_count(), _number_of_environment("LOCAL_RANK", 0)
    if count == 1:
        return torch.device("cuda", 0)
    if rank >= count:
        raise KDError(
            f"LOCAL_RANK is {rank}, and this process sees {count} CUDA devices, 0 to {count - 1}: start one process a "
            "device, or let each see one of its own (CUDA_VISIBLE_DEVICES)"
        )
    return torch.device("cuda", rank)


def _number_of_environment(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise KDError(f"the environment has {name}={text!r}, which torchrun sets to a number: unset it")
    return int(text)


def parse_shard(text: str | None) -> tuple[int, int]:
    """ "1/4" -> (1, 4). None: the rank and number of processes under torchrun, else everything.

    Raises KDError for anything else.
    """
    if text is None:
        rank, count = _number_of_environment("RANK", 0), _number_of_environment("WORLD_SIZE", 1)
        if rank >= count:
            raise KDError(f"the environment has RANK={rank} and WORLD_SIZE={count}: give --shard I/N, or unset both")
        return rank, count
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise KDError(f"--shard {text}: give I/N with I from 0 to N - 1, such as 0/4, 1/4, 2/4 and 3/4")
    return int(index), int(count)
