"""Folders that `ctranslate2.Translator` loads: written, and opened.

How a CTranslate2 model names the entries of a fairseq dictionary. CTranslate2 takes and gives names, never ids.

A dictionary can hold a symbol several times (`#fairseq:overwrite`), the special ones among them. A name that stands for
several entries means the first of them. So a model that people use has `symbols`, which text is made of, and a model
that only this package runs has `numbers`, each of which stands for one entry.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path

import torch

from fairseq_kd.core.errors import KDError

SPECIAL = {"bos": "<s>", "pad": "<blank>", "eos": "</s>", "unk": "<unk>"}  # as CTranslate2 calls them


def symbols(dictionary) -> list[str]:
    """The dictionary's own symbols; padding is <blank>, unless the text has such a word."""
    names = list(dictionary.symbols)
    if SPECIAL["pad"] not in names:
        names[dictionary.pad()] = SPECIAL["pad"]
    return names


def numbers(dictionary) -> list[str]:
    """The id of each entry, in digits; the four special ones have their names."""
    names = [str(index) for index in range(len(dictionary))]
    for kind, name in SPECIAL.items():
        names[getattr(dictionary, kind)()] = name
    return names


def first_ids(names: list[str]) -> dict[str, int]:
    """Name -> the first entry that has it."""
    return {name: index for index, name in reversed(list(enumerate(names)))}


OF_THE_DEVICE = "is not found or cannot be loaded|CUDA|cuBLAS|cuDNN|not compiled with"
INSTALL = (
    "install the CUDA libraries that it was built for (pip install nvidia-cublas-cu12 nvidia-cudnn-cu12, and name "
    "their folders in LD_LIBRARY_PATH), or give --cpu"
)
QUANTIZATIONS = {"none": None, "float16": "float16", "int8": "int8"}  # of the weights on disk; none: float32


class CannotComputeError(KDError):
    """The device, its driver or a library of it cannot be used by CTranslate2, whatever the model."""


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
    """A `ctranslate2.Translator` that has translated once; dtype "default": that of the file, where the device has it.

    workers: translations at the same time on a CPU, each with one thread; None: one a core.
    Raises KDError when the device has no such type, `CannotComputeError` when it cannot be used, and RuntimeError when
    the folder cannot be loaded.
    """
    import ctranslate2

    try:
        _check_type(ctranslate2.get_supported_compute_types(device.type), device, dtype)
        threads = {"inter_threads": workers or len(os.sched_getaffinity(0)), "intra_threads": 1}
        where = threads if device.type == "cpu" else {"device_index": device.index or 0}
        translator = ctranslate2.Translator(str(model), device.type, compute_type=dtype, max_queued_batches=-1, **where)
        # libraries of CUDA are opened when they are first used
        translator.translate_batch([["<unk>"]], beam_size=1, max_decoding_length=1)
    except (RuntimeError, MemoryError, ValueError) as error:
        if is_out_of_memory(error):
            raise KDError(f"CTranslate2 has not enough memory on {device} for {model} ({error}): free some") from error
        if not re.search(OF_THE_DEVICE, str(error).replace(str(model), "")):
            raise
        raise CannotComputeError(f"CTranslate2 cannot compute on {device} ({error}); {INSTALL}") from error
    return translator


def _check_type(supported, device: torch.device, dtype: str) -> None:
    if dtype not in ("default", *supported):
        listed = ", ".join(sorted(supported))
        raise KDError(f"--dtype {dtype}: CTranslate2 has no such type on this {device.type}; it has {listed}")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether CTranslate2 says that the device's memory, or the machine's, is not enough."""
    return isinstance(error, MemoryError) or "out of memory" in str(error) or "std::bad_alloc" in str(error)
