"""Mixed precision: products in bfloat16, weights and everything else in float32 (`--autocast bfloat16`).

On CUDA this is torch's autocast. On a CPU only linear layers multiply in bfloat16 (`linear` says why).
"""

import contextlib
import functools
import time
from pathlib import Path

import torch

from fairseq_kd.core.errors import KDError
from fairseq_kd.inference.linear import linear_products

OFF = "none"
AUTOCAST = (OFF, "bfloat16")
LOSS_DTYPES = ("float32", "bfloat16")
CPUINFO = Path("/proc/cpuinfo")
INSTRUCTIONS = {"avx512_bf16", "amx_bf16", "bf16"}  # of x86 and, the last one, of ARM, as Linux names them


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 by its own instructions. Only Linux says so of a CPU."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return bool(instructions_of_cpu())


def instructions_of_cpu() -> list[str]:
    """The instructions of this CPU for bfloat16, as Linux names them; empty if it has none, or if it is not known."""
    return sorted(INSTRUCTIONS & _instructions(CPUINFO))


def gain_of_products(rows: int = 4096, repetitions: int = 15) -> float:
    """Time of a float32 product (rows x 256 x 512) divided by the time in bfloat16, shortest of some, on the CPU."""
    shortest = []  # the others are longer because of other work on the cores
    for dtype in (torch.float32, torch.bfloat16):
        a, b = torch.ones(rows, 256, dtype=dtype), torch.ones(256, 512, dtype=dtype)
        torch.mm(a, b)  # oneDNN compiles its kernel
        times = []
        for _ in range(repetitions):
            start = time.perf_counter()
            torch.mm(a, b)
            times.append(time.perf_counter() - start)
        shortest.append(min(times))
    return shortest[0] / shortest[1]


@functools.cache
def _instructions(cpuinfo: Path) -> frozenset[str]:
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    found = (line.partition(":")[2].split() for line in lines if line.lower().startswith(("flags", "features")))
    return frozenset(next(found, ()))


def check_bfloat16(device: torch.device, option: str) -> None:
    """Raises KDError if the device has no instructions for bfloat16. option: what asks for it, for the message."""
    if not has_bfloat16(device):
        named = "CPU" if device.type == "cpu" else "GPU"
        raise KDError(
            f"{option}: this {named} has no instructions for bfloat16 (a CPU needs AVX512-BF16, AMX or those of ARM, a "
            "GPU compute capability 8.0), so products would be slower than in float32; leave it out"
        )


def check_loss_dtype(device: torch.device, dtype: str) -> None:
    """Raises KDError when losses cannot be computed on the device with products in `dtype` (--loss-dtype)."""
    if dtype == "float32":
        return
    if dtype != "bfloat16":
        raise KDError(f"--loss-dtype {dtype}: must be float32 or bfloat16")
    if device.type != "cpu":
        raise KDError(
            "--loss-dtype bfloat16 is for the CPU: on CUDA the loss takes little time beside the decoding; leave it "
            "out, or give --cpu"
        )
    check_bfloat16(device, "--loss-dtype bfloat16")


def autocast(device_type: str, dtype: str) -> contextlib.AbstractContextManager:
    """Inside the block, models multiply in `dtype`, one of AUTOCAST. Blocks can be nested; "none" ends an outer one."""
    narrow = dtype == "bfloat16"
    if device_type == "cuda":
        return torch.autocast("cuda", torch.bfloat16, enabled=narrow)
    return linear_products(narrow)
