"""The start of a training on the CPU: keep the memory of large tensors, and report too many threads.

By default glibc returns the memory of large tensors to the kernel in each update. The kernel then clears the pages
again, which takes CPU time (docs/benchmarks.md). `mallopt` turns that off for the process.
"""

import ctypes
import functools
import logging
import os

import torch

from fairseq_kd.core.cores import advice_on_threads, busy_cores, usable_cores
from fairseq_kd.core.errors import KDError, exit_on_user_error

logger = logging.getLogger(__name__)

SWITCH = "FAIRSEQ_KD_KEEP_MEMORY"
OF_GLIBC = ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_")  # variables by which users set the same
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
NEVER_TRIM = -1  # mallopt(3)


def keep_memory() -> str:
    """Let glibc keep freed memory in this process. Returns the line for the log.

    The environment variable FAIRSEQ_KD_KEEP_MEMORY=0 turns it off. Variables of glibc that the user has set stay in
    effect. Raises KDError for another value of the variable.
    """
    value = os.environ.get(SWITCH, "1")
    if value not in ("0", "1"):
        raise KDError(f"{SWITCH}={value}: must be 1 (keep freed memory for the next update) or 0")
    if value == "0":
        return f"freed memory goes back to the system after each update ({SWITCH}=0)"
    given = [name for name in OF_GLIBC if name in os.environ]
    if given:
        return f"{' and '.join(given)} of the environment decides what happens to freed memory"
    if not _is_glibc():
        return "freed memory is left to the C library, which is not glibc"
    libc = ctypes.CDLL(None)
    if not (libc.mallopt(M_MMAP_MAX, 0) and libc.mallopt(M_TRIM_THRESHOLD, NEVER_TRIM)):
        return "freed memory goes back to the system after each update: glibc refused mallopt"
    return f"freed memory is kept for the next update ({SWITCH}=0 turns it off)"


def _is_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, OSError, ValueError):  # not on this system
        return False


def begin_training_on_cpu() -> None:
    """Keep memory and log it; log advice if there are too many threads. A user error ends the process, status 2."""
    with exit_on_user_error():
        logger.info(keep_memory())
    threads = torch.get_num_threads()
    if threads > 1 and (advice := advice_on_threads(threads, usable_cores(), busy_cores())):
        logger.warning(advice)


def prepare_trainings() -> None:
    """Call `begin_training_on_cpu` whenever fairseq builds a trainer for the CPU. A second call has no effect."""
    from fairseq.trainer import Trainer

    original = Trainer.__init__
    if getattr(original, "of_fairseq_kd", False):
        return

    @functools.wraps(original)
    def build(self, *args, **options):
        original(self, *args, **options)
        if self.device.type == "cpu":
            begin_training_on_cpu()

    build.of_fairseq_kd = True
    Trainer.__init__ = build
