"""Write and open folders that `ctranslate2.Translator` loads.

CTranslate2 takes and returns names of dictionary entries, never ids. A fairseq dictionary can contain a symbol several
times (`#fairseq:overwrite`), also a special symbol, and a name of several entries means the first of them. So a model
for users names the entries with their `symbols`, because text consists of symbols. A model that only this package runs
names them with `numbers`, because each number means exactly one entry.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path

import torch

from fairseq_kd.core.errors import KDError

SPECIAL = {"bos": "<s>", "pad": "<blank>", "eos": "</s>", "unk": "<unk>"}  # names in CTranslate2


def symbols(dictionary) -> list[str]:
    """The dictionary's symbols. Padding is named <blank>, unless the dictionary has a word of this name."""
    names = list(dictionary.symbols)
    if SPECIAL["pad"] not in names:
        names[dictionary.pad()] = SPECIAL["pad"]
    return names


def numbers(dictionary) -> list[str]:
    """The id of each entry in digits; the four special entries have their names in SPECIAL."""
    names = [str(index) for index in range(len(dictionary))]
    for kind, name in SPECIAL.items():
        names[getattr(dictionary, kind)()] = name
    return names


def first_ids(names: list[str]) -> dict[str, int]:
    """Name -> id of the first entry with this name."""
    return {name: index for index, name in reversed(list(enumerate(names)))}


DEVICE_ERRORS = "is not found or cannot be loaded|CUDA|cuBLAS|cuDNN|not compiled with"
INSTALL = (
    "install the CUDA libraries that it was built for (pip install nvidia-cublas-cu12 nvidia-cudnn-cu12, and add "
    "their folders to LD_LIBRARY_PATH), or give --cpu"
)
QUANTIZATIONS = {"none": None, "float16": "float16", "int8": "int8"}  # dtype of the weights on disk; none: float32


class CannotComputeError(KDError):
    """CTranslate2 cannot use the device, its driver or one of its libraries, with any model."""


def check_installed() -> None:
    """Raises KDError when ctranslate2 is not installed."""
    try:
        import ctranslate2  # noqa: F401
    except ImportError as error:
        raise KDError("ctranslate2 is not installed (pip install 'fairseq_kd[fast]')") from error


def write_model(
    model, source_dictionary, target_dictionary, folder, quantize: str = "none", names: Callable = symbols
) -> None:
    """Write model.bin, config.json and the vocabulary to `folder`.

    model: in eval mode. quantize: one of QUANTIZATIONS. names: `symbols` or `numbers`.
    Raises KDError for what CTranslate2 cannot express.
    """
    from fairseq_kd.export.specification import specify

    spec = specify(model, names(source_dictionary), names(target_dictionary))
    spec.validate()
    spec.optimize(quantization=QUANTIZATIONS[quantize])
    Path(folder).mkdir(parents=True, exist_ok=True)
    spec.save(str(folder))


def load_translator(model, device: torch.device, dtype: str, workers: int | None = None):
    """A `ctranslate2.Translator` that has translated once.

    dtype: of the computation; "default": the dtype of the file if the device supports it. workers: parallel
    translations on a CPU, each with one thread; None: one per core.
    Raises KDError when the device does not support the dtype, `CannotComputeError` when CTranslate2 cannot use the
    device, and RuntimeError when the folder cannot be loaded.
    """
    import ctranslate2

    try:
        _check_type(ctranslate2.get_supported_compute_types(device.type), device, dtype)
        threads = {"inter_threads": workers or len(os.sched_getaffinity(0)), "intra_threads": 1}
        where = threads if device.type == "cpu" else {"device_index": device.index or 0}
        translator = ctranslate2.Translator(str(model), device.type, compute_type=dtype, max_queued_batches=-1, **where)
        # CUDA's libraries are only loaded at their first use
        translator.translate_batch([["<unk>"]], beam_size=1, max_decoding_length=1)
    except (RuntimeError, MemoryError, ValueError) as error:
        if is_out_of_memory(error):
            raise KDError(f"CTranslate2 needs more memory on {device} for {model} ({error}): free some") from error
        if not re.search(DEVICE_ERRORS, str(error).replace(str(model), "")):
            raise
        raise CannotComputeError(f"CTranslate2 cannot compute on {device} ({error}); {INSTALL}") from error
    return translator


def _check_type(supported, device: torch.device, dtype: str) -> None:
    if dtype not in ("default", *supported):
        listed = ", ".join(sorted(supported))
        raise KDError(f"--dtype {dtype}: CTranslate2 does not support it on this {device.type}; it supports {listed}")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error says that the memory of the device or of the machine is too small."""
    return isinstance(error, MemoryError) or "out of memory" in str(error) or "std::bad_alloc" in str(error)
