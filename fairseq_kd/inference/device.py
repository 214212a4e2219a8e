"""The device on which a command runs, copies to it and from it, and the share of the work that a process does."""

import logging
import os
from collections.abc import Callable

import numpy as np
import torch

from fairseq_kd.core.errors import KDError

logger = logging.getLogger(__name__)


def to_host(tensors: tuple[torch.Tensor, ...]) -> Callable[[], list[torch.Tensor]]:
    """Begin to copy tensors to the host. The returned function waits for these copies and returns them.

    It does not wait for what was queued on the device after this call.
    """
    if all(tensor.device.type != "cuda" for tensor in tensors):
        return lambda: list(tensors)
    copies, copied = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in tensors], torch.cuda.Event()
    for copy, tensor in zip(copies, tensors, strict=True):
        copy.copy_(tensor, non_blocking=True)
    copied.record()

    def wait() -> list[torch.Tensor]:
        copied.synchronize()
        return copies

    return wait


def to_device(values: np.ndarray, device: torch.device) -> torch.Tensor:
    """The values on the device; for CUDA from pinned memory, so that the host does not wait."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class Upload:
    """Arrays that are filled on the host and then copied to a device: for CUDA from pinned memory, without a wait."""

    def __init__(self, device: torch.device):
        self.device, self._tensors = device, []

    def allocate(self, rows: int, columns: int, dtype: np.dtype) -> np.ndarray:
        """An array to fill. Its type is one that torch has, or uint16."""
        own = np.dtype(np.int16) if dtype == np.uint16 else dtype
        kind = torch.from_numpy(np.empty(0, own)).dtype
        tensor = torch.empty(rows, columns, dtype=kind, pin_memory=self.device.type == "cuda")
        self._tensors.append((tensor, dtype == np.uint16))
        return tensor.numpy().view(dtype)

    def send(self) -> list[torch.Tensor]:
        """The arrays on the device, in the order of their allocation; uint16 as int64."""
        sent = ((tensor.to(self.device, non_blocking=True), unsigned) for tensor, unsigned in self._tensors)
        return [tensor.long().bitwise_and_(0xFFFF) if unsigned else tensor for tensor, unsigned in sent]


def gpu_name(device: torch.device) -> str | None:
    """The name of the GPU, such as NVIDIA H200; None for a CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


def prefer_attention_without_plans() -> None:
    """Switch off cuDNN's attention in this process; torch's other implementations replace it.

    In half precision it builds a plan for each new shape of a batch, in about 0.2 s for forward and backward pass on an
    H200, and the batches of a translation corpus have thousands of shapes.
    """
    if torch.cuda.is_available() and torch.backends.cuda.cudnn_sdp_enabled():
        torch.backends.cuda.enable_cudnn_sdp(False)
        logger.info("cuDNN's attention is off: it would build a plan for each new shape of a batch")


def choose_device(cpu: bool) -> torch.device:
    """The CUDA device of this process (under torchrun the device of the local rank), or the CPU.

    A process that sees only one device takes it and ignores its local rank, because schedulers show each rank its own
    device by CUDA_VISIBLE_DEVICES. Raises KDError when it sees several devices, but none with the local rank's number.
    """
    if cpu or not torch.cuda.is_available():
        return torch.device("cpu")
    count, rank = torch.cuda.device_count(), _number_of_environment("LOCAL_RANK", 0)
    if count == 1:
        return torch.device("cuda", 0)
    if rank >= count:
        raise KDError(
            f"LOCAL_RANK is {rank}, but this process sees {count} CUDA devices, 0 to {count - 1}: start one process "
            "per device, or show each process its own device (CUDA_VISIBLE_DEVICES)"
        )
    return torch.device("cuda", rank)


def _number_of_environment(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise KDError(f"the environment has {name}={text!r}, which torchrun sets to a number: unset it")
    return int(text)


def parse_shard(text: str | None) -> tuple[int, int]:
    """(index, number of shards) of a text such as "1/4". None: rank and number of processes of torchrun, else (0, 1).

    Raises KDError for any other text.
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
