"""The teacher's signal from a cache on disk: the same signal for a batch, without running the teacher.

Rows are found by sample["id"], the index of the sentence in the data-bin. Filtering, shuffling, batching and sharding
only permute these indices. Each sentence is compared with the cache when it is read, so that a signal never belongs to
other data.
"""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from fairseq_kd.artifacts.hashes import data_hashes, dictionary_hash
from fairseq_kd.cache.format import sentence_crcs
from fairseq_kd.cache.reader import CacheReader
from fairseq_kd.cache.teachers import check_teachers
from fairseq_kd.cache.truncation import describe_truncation
from fairseq_kd.cache.values import rebuild
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.paths import listed
from fairseq_kd.core.public import errors_name_arguments
from fairseq_kd.inference.device import Upload, to_host
from fairseq_kd.inference.frozen import data_folder
from fairseq_kd.inference.multilingual import PLAIN, configuration, layout_of
from fairseq_kd.loss.signal import DenseSignal, TopKSignal

logger = logging.getLogger(__name__)
SIDES = ("source", "target")


@errors_name_arguments(temperature="teacher-temperature")
def read_cache(folder, task, *, subset: str = "train", temperature: float = 1.0, teacher=None) -> "CachedSignalSource":
    """The teacher's answers in a cache, for batches of `subset`.

    task: of fairseq, such as `read_teacher(...).task`. temperature: of later calls. teacher: the checkpoint that the
    cache must be made from; None: any.
    Raises KDError as `CachedSignalSource` does.
    """
    return CachedSignalSource(folder, task, temperature=temperature, stated_teacher=teacher, subset=subset)


class CachedSignalSource:
    """A `SignalSource` that reads a cache made by `fairseq-kd cache`."""

    def __init__(self, folder, task, *, temperature: float | None, stated_teacher=None, subset: str = "train"):
        """Open the cache and check it against the task. The data of the task need not be loaded yet.

        temperature: of later calls; None if it is not known yet. stated_teacher: the checkpoints that the cache must be
        made from, joined by ":".
        Raises KDError when the cache is damaged, or has another vocabulary, temperature, subset or teacher.
        """
        self.reader = CacheReader(folder)
        self.task, self.subset = task, subset
        self._data_is_checked = False
        self._shapes = {}  # by temperature and device
        if temperature is not None:
            self.reader.tail_column(temperature)
            if (warning := describe_truncation(self.reader.manifest, temperature)) is not None:
                logger.warning("teacher cache %s: %s", folder, warning)
        self._check_subset()
        self._check_dictionaries()
        if stated_teacher is not None:
            check_teachers(folder, self.reader.manifest, listed(stated_teacher))

    def request(self, sample, keep: torch.Tensor, temperature: float) -> Callable[[], TopKSignal | DenseSignal]:
        """As in `SignalSource`. On CUDA the copy of the batch to the host begins here; the rows are read later.

        keep may omit positions, but must not keep padding. Rows are in row-major order of keep, on the device of the
        target. The returned function raises KDError when the batch is not from the data that the cache was made from.
        """
        rows, device = self.request_rows(sample, keep), sample["target"].device
        return lambda: self.rebuild(rows(), temperature, device)[0]

    def request_with_gold(self, sample, keep: torch.Tensor, temperature: float):
        """As `request`, but the function returns (signal, log-probabilities (N,) of the gold tokens at temperature 1).

        The cache must store them, see `CacheReader.check_gold`.
        """
        rows, device = self.request_rows(sample, keep), sample["target"].device
        return lambda: self.rebuild(rows(), temperature, device, gold=True)

    def signal(self, sample, keep: torch.Tensor, temperature: float) -> TopKSignal | DenseSignal:
        """The answer to `request`."""
        return self.request(sample, keep, temperature)()

    def request_rows(self, sample, keep: torch.Tensor) -> Callable[[], np.ndarray]:
        """A function that checks the batch and returns the numbers of its rows, (N,)."""
        tensors = (sample["id"], sample["net_input"]["src_tokens"], sample["target"], keep)
        on_host = to_host(tensors)

        def answer() -> np.ndarray:
            self.check_data()
            numbers, source, target, kept = (tensor.numpy() for tensor in on_host())
            self._check_sentences(source, target, numbers)
            real = target != self.task.target_dictionary.pad()  # (B, T); with NumPy: no threads for so little work
            rows = self.reader.offsets[numbers][:, None] + real.cumsum(axis=1) - 1
            return rows[kept]

        return answer

    def rebuild(self, rows: np.ndarray, temperature: float, device, gold: bool = False):
        """(signal of these rows, log-probabilities (N,) of their gold tokens, or None without `gold`)."""
        stored = self.stored(rows, device, gold)
        return self.signal_of(stored, temperature), stored["gold"][:, 0] if gold else None

    def stored(self, rows: np.ndarray, device, gold: bool = False) -> dict[str, torch.Tensor]:
        """The stored values of these rows, by the name of the array, on the device. gold: see `CacheReader.take`."""
        upload = Upload(device)
        return dict(zip(self.reader.take(rows, upload.allocate, gold), upload.send(), strict=True))

    def signal_of(self, stored: dict[str, torch.Tensor], temperature: float) -> TopKSignal | DenseSignal:
        """The signal of stored values."""
        ids, delta = stored["ids"].long(), stored["delta"]  # (N, k)
        tail = stored["tail"][:, self.reader.tail_column(temperature)]  # (N,)
        if not self.reader.format.is_dense:
            shapes = self._tail_shapes(stored.get("shape_ids"), temperature, ids.device)
            return TopKSignal(ids, *rebuild(delta, tail, temperature), *shapes)
        lprobs, _ = rebuild(delta, tail, temperature=1.0)
        return DenseSignal(torch.empty_like(lprobs).scatter_(1, ids, lprobs), None, temperature)

    def largest_of(self, stored: dict[str, torch.Tensor]) -> torch.Tensor:
        """The log-probability (N,) of the most probable token of stored values, at temperature 1.

        The cache must hold temperature 1, see `CacheReader.check_temperature_1`.
        """
        return rebuild(stored["delta"], stored["tail"][:, self.reader.tail_column(1.0)], 1.0)[0][:, 0]

    def _tail_shapes(self, shape_ids: torch.Tensor | None, temperature: float, device):
        """(shapes, shape_ids) as in TopKSignal. shape_ids: as stored, (N, 1)."""
        if shape_ids is None:
            return None, None
        if (temperature, device) not in self._shapes:
            self._shapes[temperature, device] = self.reader.tail_shapes(temperature).to(device)
        return self._shapes[temperature, device], shape_ids[:, 0].long()

    def _check_subset(self) -> None:
        made_of = self.reader.manifest["subset"]
        if made_of != self.subset:
            raise KDError(
                f"teacher cache {self.reader.folder} is of subset {made_of!r}, the training reads {self.subset!r}: "
                f"make a cache with fairseq-kd cache --subset {self.subset}"
            )

    def _check_dictionaries(self) -> None:
        manifest = self.reader.manifest
        types = len(self.task.target_dictionary)
        self._check_tokens(manifest.get("language_tokens", str(PLAIN)))
        for side, dictionary in zip(SIDES, (self.task.source_dictionary, self.task.target_dictionary), strict=True):
            if dictionary_hash(dictionary) != manifest["dictionaries"][side]:
                raise KDError(
                    f"teacher cache {self.reader.folder} was made with another {side} dictionary (cache: "
                    f"{manifest['types']} target tokens; task: {types}): the stored indices would mean other tokens. "
                    "Train on the data-bin that the cache was made from, or make a cache of this data-bin"
                )

    def _check_tokens(self, cached: str) -> None:
        found = layout_of(configuration(self.task))
        if cached == str(found):
            return
        remedy = "fairseq-kd cache --student-task translation" if found == PLAIN else "the task of this training"
        raise KDError(
            f"teacher cache {self.reader.folder} was made for a student with {cached}, the student has {found}: the "
            f"rows are of other positions. Make a cache with {remedy}"
        )

    def check_data(self) -> None:
        """Check counts, lengths and files of the subset, as far as the task has them; once. The data are loaded.

        Raises KDError when the cache was made from other data.
        """
        if self._data_is_checked:
            return
        self._check_counts()
        expected = self.reader.manifest["data"]
        folder = Path(data_folder(configuration(self.task)))
        for name, found in data_hashes(folder, names=expected).items():
            if found != expected[name]:
                raise KDError(
                    f"{folder / name} has sha256 {found[:16]}..., teacher cache {self.reader.folder} "
                    f"was made from {expected[name][:16]}...: the teacher was run on other data (another corpus, "
                    "or one with or without noise). Make a cache of these data"
                )
        self._data_is_checked = True

    def _check_counts(self) -> None:
        dataset = self.task.datasets.get(self.subset)
        lengths = getattr(dataset, "tgt_sizes", None)
        if lengths is None or getattr(dataset, "buckets", None) is not None:  # buckets: lengths include padding
            return
        if len(lengths) != len(self.reader):
            raise KDError(
                f"subset {self.subset!r} has {len(lengths):,} sentences, teacher cache {self.reader.folder} "
                f"{len(self.reader):,}: it was made from other data. Make a cache of these data"
            )
        if len(different := np.flatnonzero(np.diff(self.reader.offsets) != lengths)):
            first = different[0]
            raise KDError(
                f"sentence {first} of subset {self.subset!r} has {lengths[first]} target tokens, in teacher cache "
                f"{self.reader.folder} {np.diff(self.reader.offsets[first : first + 2])[0]} ({len(different):,} "
                "sentences differ): it was made from other data. Make a cache of these data"
            )

    def _check_sentences(self, source: np.ndarray, target: np.ndarray, sentences: np.ndarray) -> None:
        beyond = sentences[(sentences < 0) | (sentences >= len(self.reader))]
        if len(beyond):
            raise KDError(
                f"the batch has sentence {beyond[0]}, teacher cache {self.reader.folder} ends at sentence "
                f"{len(self.reader) - 1}: it was made from other data (concatenated data-bins have other numbers). "
                "Make a cache of the data-bin of this training"
            )
        stored = self.reader.crc[sentences]  # (B, 2)
        padding = self.task.source_dictionary.pad(), self.task.target_dictionary.pad()
        for column, tokens in enumerate((source, target)):
            found = sentence_crcs(tokens, padding[column])
            if len(different := np.flatnonzero(found != stored[:, column])):
                raise KDError(
                    f"the {SIDES[column]} of sentence {sentences[different[0]]} of subset {self.subset!r} differs from "
                    f"the one in teacher cache {self.reader.folder}: the data are not the data that the teacher was "
                    "run on (another corpus, added noise, or an option such as --truncate-source). Make a cache of "
                    "these data"
                )
