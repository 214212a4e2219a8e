"""Decoding by CTranslate2: the same beam search as fairseq's, several times faster on a CPU.

The checkpoint is converted once and kept in the user's cache folder ($XDG_CACHE_HOME/fairseq_kd or
~/.cache/fairseq_kd), named by the sha256 of the checkpoint. Weights are quantised when the model is loaded.
"""

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch

from fairseq_kd.corpus.manifest import sha256_file
from fairseq_kd.errors import KDError
from fairseq_kd.sequence.hypothesis import Hypothesis
from fairseq_kd.sequence.options import DTYPES, DecodeOptions
from fairseq_kd.sequence.teachers import Teachers
from fairseq_kd.teacher.batches import length_sorted

MAX_TOKENS = {"cpu": 1024, "cuda": 16384}


class CTranslate2Backend:
    """Beam and greedy search of one transformer, in batches that its own threads share."""

    name = "ctranslate2"

    def __init__(self, teachers: Teachers, options: DecodeOptions, device: torch.device, workers: int | None = None):
        """workers: translations at the same time on a CPU, each with one thread; None: one a core.

        Raises KDError when the teacher cannot be converted, or the device has no such --dtype.
        """
        self.teachers, self.options = teachers, options
        self.max_tokens = options.max_tokens or MAX_TOKENS[device.type]
        self.translator = load_translator(convert(teachers), device, options.dtype, workers)
        source, target = teachers.task.source_dictionary, teachers.task.target_dictionary
        self._symbols = np.array([*source.symbols], dtype=object)
        self._index = {symbol: index for index, symbol in enumerate(target.symbols)}
        self._lengths = np.asarray(teachers.dataset.src_sizes)

    def translate(self, sentences: np.ndarray, advance) -> dict[int, list[Hypothesis]]:
        """See `Backend`."""
        settings, pending = self.options.settings(), []
        for numbers in length_sorted(sentences, self._lengths, self.max_tokens):
            limit = int(settings["max_len_a"] * int(self._lengths[numbers[0]]) + settings["max_len_b"])
            answers = self.translator.translate_batch(
                [self._source(int(number)) for number in numbers],
                beam_size=settings.get("beam", 1),
                num_hypotheses=settings.get("nbest", 1),
                length_penalty=settings.get("lenpen", 1.0),
                max_decoding_length=min(limit, self.teachers.max_positions[1] - 1),
                max_input_length=0,
                return_scores=True,
                asynchronous=True,
            )
            pending.append((numbers, answers))
        found = {}
        for numbers, answers in pending:
            for number, answer in zip(numbers.tolist(), answers, strict=True):
                result = answer.result()
                pairs = zip(result.hypotheses, result.scores, strict=True)
                found[number] = [Hypothesis(self._ids(words), float(score)) for words, score in pairs]
            advance(len(numbers))
        return found

    def _source(self, number: int) -> list[str]:
        """Symbols of a source sentence; the converted model adds EOS."""
        tokens = self.teachers.dataset.src[number].numpy()
        assert tokens[-1] == self.teachers.task.source_dictionary.eos(), f"source {number} does not end with EOS"
        return self._symbols[tokens[:-1]].tolist()

    def _ids(self, words: list[str]) -> np.ndarray:
        return np.array([self._index[word] for word in words], dtype=np.int64)


def reason_against(teachers: Teachers, options: DecodeOptions) -> str | None:
    """Why CTranslate2 cannot do this; None when nothing is known that speaks against it."""
    try:
        import ctranslate2  # noqa: F401
    except ImportError:
        return "ctranslate2 is not installed (pip install 'fairseq_kd[fast]')"
    if options.strategy == "teacher-forcing":
        return "teacher forcing is one forward pass, not a search"
    if options.strategy == "sample":
        return "its samples depend on which of its threads draws them, so they could not be drawn again"
    if len(teachers.members) > 1:
        return "it has no ensembles"
    return None


def cache_folder() -> Path:
    """Where converted models are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "fairseq_kd" / "ctranslate2"


def convert(teachers: Teachers) -> Path:
    """The folder of the teacher as a CTranslate2 model, converted now if it is not there yet.

    Raises KDError when its architecture or one of its options has no counterpart.
    """
    import ctranslate2
    from ctranslate2.converters import FairseqConverter

    path = teachers.paths[0]
    final = cache_folder() / f"{sha256_file(path)[:32]}-{ctranslate2.__version__}"
    if (final / "model.bin").is_file():
        return final
    source, target = teachers.members[0].languages
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=final.parent, prefix=".part-") as scratch:
            converter = FairseqConverter(str(path), str(teachers.task.cfg.data), source, target)
            converter.convert(str(Path(scratch) / "model"))
            try:
                os.replace(Path(scratch) / "model", final)
            except OSError:  # another process was faster
                if not (final / "model.bin").is_file():
                    raise
    except OSError as error:
        raise KDError(f"cannot keep the converted teacher in {final.parent} ({error}); set XDG_CACHE_HOME") from error
    except Exception as error:  # the converter and the model's own code raise many kinds
        raise KDError(
            f"CTranslate2 cannot convert {path} ({' '.join(str(error).split())}); use --backend fairseq"
        ) from error
    return final


def load_translator(model: Path, device: torch.device, dtype: str, workers: int | None):
    """A `ctranslate2.Translator`. Raises KDError when the device has no such type."""
    import ctranslate2

    supported = ctranslate2.get_supported_compute_types(device.type)
    if dtype not in supported:
        listed = ", ".join(name for name in DTYPES if name in supported)
        raise KDError(f"--dtype {dtype}: CTranslate2 has no such type on this {device.type}; it has {listed}")
    threads = {"inter_threads": workers or len(os.sched_getaffinity(0)), "intra_threads": 1}
    where = threads if device.type == "cpu" else {"device_index": device.index or 0}
    try:
        return ctranslate2.Translator(str(model), device.type, compute_type=dtype, max_queued_batches=-1, **where)
    except RuntimeError as error:
        shutil.rmtree(model, ignore_errors=True)
        raise KDError(f"CTranslate2 cannot load {model} ({error}); it was removed: run the command again") from error
