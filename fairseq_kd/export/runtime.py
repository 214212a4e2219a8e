"""Folders that `ctranslate2.Translator` loads: written, and opened."""

import os
from collections.abc import Callable
from pathlib import Path

import torch

from fairseq_kd.errors import KDError
from fairseq_kd.export.vocabulary import symbols

QUANTIZATIONS = {"none": None, "float16": "float16", "int8": "int8"}  # of the weights on disk; none: float32


def check_installed() -> None:
    """Raises KDError when ctranslate2 is not there."""
    try:
        import ctranslate2  # noqa: F401
    except ImportError as error:
        raise KDError("ctranslate2 is not installed (pip install 'fairseq_kd[fast]')") from error


def write_model(
    model, source_dictionary, target_dictionary, folder, quantize: str = "none", names: Callable = symbols
) -> None:
    """Write model.bin, config.json and the vocabulary to `folder`.

    model: in eval mode; quantize: one of QUANTIZATIONS. names: `symbols` or `numbers` of `export.vocabulary`.
    Raises KDError for what CTranslate2 cannot express.
    """
    from fairseq_kd.export.specification import specify

    spec = specify(model, names(source_dictionary), names(target_dictionary))
    spec.validate()
    spec.optimize(quantization=QUANTIZATIONS[quantize])
    Path(folder).mkdir(parents=True, exist_ok=True)
    spec.save(str(folder))


def load_translator(model, device: torch.device, dtype: str, workers: int | None = None):
    """A `ctranslate2.Translator`; dtype "default" is that of the file, where the device has it.

    workers: translations at the same time on a CPU, each with one thread; None: one a core.
    Raises KDError when the device has no such type, and RuntimeError when the folder cannot be loaded.
    """
    import ctranslate2

    supported = ctranslate2.get_supported_compute_types(device.type)
    if dtype not in ("default", *supported):
        listed = ", ".join(sorted(supported))
        raise KDError(f"--dtype {dtype}: CTranslate2 has no such type on this {device.type}; it has {listed}")
    threads = {"inter_threads": workers or len(os.sched_getaffinity(0)), "intra_threads": 1}
    where = threads if device.type == "cpu" else {"device_index": device.index or 0}
    return ctranslate2.Translator(str(model), device.type, compute_type=dtype, max_queued_batches=-1, **where)
