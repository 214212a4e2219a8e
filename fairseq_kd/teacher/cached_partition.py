"""Data-partitioning KD from two caches of the same data: one of the teacher, one of the student's start."""

from collections.abc import Callable

import torch

from fairseq_kd.core.errors import KDError
from fairseq_kd.loss.partition import chosen, prefers_first
from fairseq_kd.loss.signal import DenseSignal, TopKSignal
from fairseq_kd.teacher.cached import CachedSignalSource
from fairseq_kd.teacher.cached_mixture import check_same_data
from fairseq_kd.teacher.several import SUPERVISED


class CachedPartitionSource:
    """As `several.PartitionSource`, with the stored distributions of the teacher and of the start.

    Each token has the stored distribution of one of them, unchanged. They are compared by what the caches store of
    temperature 1: ln p of the gold token (supervised), or ln p of the most probable token (unsupervised).
    sums, tokens: as in `several`.
    """

    def __init__(self, teacher: CachedSignalSource, start: CachedSignalSource, kind: str, per: str):
        """kind: SUPERVISED or UNSUPERVISED. per: the unit that is assigned, `weights.TOKEN` or `weights.SENTENCE`.

        Raises KDError when the caches are of other data, lack what is compared, or store different numbers of tokens.
        """
        self.teacher, self.start, self.kind, self.per = teacher, start, kind, per
        readers = [teacher.reader, start.reader]
        check_same_data(readers)
        for reader in readers:
            if kind == SUPERVISED:
                reader.check_gold(f"--kd-partition {SUPERVISED}")
            else:
                reader.check_temperature_1(f"--kd-partition {kind} compares the two")
        if len({(reader.format.k, bool(reader.format.tail_shapes)) for reader in readers}) > 1:
            found = " and ".join(
                f"{reader.folder} (--top-k {reader.format.k} --tail-shapes {reader.format.tail_shapes})"
                for reader in readers
            )
            raise KDError(
                f"teacher caches {found} do not store the same number of tokens, or only one has tail shapes, so "
                "--kd-partition cannot choose between their rows: make both with the same --top-k, and both with or "
                "without --tail-shapes 0"
            )
        self.sums, self.tokens = {name: torch.zeros(()) for name in ("from_teacher", "from_start")}, 0

    def request(self, sample, keep: torch.Tensor, temperature: float) -> Callable[[], TopKSignal | DenseSignal]:
        """As in `SignalSource`. The returned function raises KDError as that of `CachedSignalSource` does."""
        device = sample["target"].device
        rows = self.teacher.request_rows(sample, keep)  # those of both caches, see `check_same_data`

        def answer() -> TopKSignal | DenseSignal:
            numbers, sources = rows(), (self.teacher, self.start)
            stored = [source.stored(numbers, device, gold=self.kind == SUPERVISED) for source in sources]
            if self.kind == SUPERVISED:
                values = [found["gold"][:, 0] for found in stored]
            else:
                values = [source.largest_of(found) for source, found in zip(sources, stored, strict=True)]
            is_first = prefers_first(torch.stack(values, dim=1), keep, self.per)
            self.sums = {"from_teacher": is_first.sum().float(), "from_start": (~is_first).sum().float()}
            self.tokens = len(is_first)
            signals = [source.signal_of(found, temperature) for source, found in zip(sources, stored, strict=True)]
            return chosen(is_first, *signals)

        return answer

    def check_data(self) -> None:
        """As `CachedSignalSource.check_data`, for both caches: they are of the same data."""
        self.teacher.check_data()
