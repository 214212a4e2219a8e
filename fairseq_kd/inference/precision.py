"""Mixed precision: products in bfloat16, weights and everything else in float32 (`--autocast bfloat16`).

On CUDA this is torch's autocast. On a CPU only linear layers multiply in bfloat16 (`linear` says why).
"""

import contextlib
import functools
from pathlib import Path

import torch

from fairseq_kd.core.errors import KDError
from fairseq_kd.inference.linear import linear_products

OFF = "none"
AUTOCAST = (OFF, "bfloat16")
CPUINFO = Path("/proc/cpuinfo")
INSTRUCTIONS = {"avx512_bf16", "amx_bf16", "bf16"}  # of x86 and, the last one, of ARM, as Linux names them


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 by its own instructions. Only Linux says so of a CPU."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return not INSTRUCTIONS.isdisjoint(_instructions(CPUINFO))


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


@contextlib.contextmanager
def autocast(device_type: str, dtype: str):
    """Inside the block, models multiply in `dtype`, one of AUTOCAST. Blocks can be nested; "none" ends an outer one."""
    narrow = dtype == "bfloat16"
    if device_type == "cuda":
        with torch.autocast("cuda", torch.bfloat16, enabled=narrow):
            yield
    else:
        with linear_products(narrow):
            yield
