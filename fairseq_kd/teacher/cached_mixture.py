"""The signal of several caches of the same data: the mixture of their rebuilt distributions."""

import os
from collections.abc import Callable

import numpy as np
import torch

from fairseq_kd.cache.teachers import check_stated, members_of
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.paths import listed
from fairseq_kd.loss.mixture import MixtureSignal
from fairseq_kd.loss.rebuilt import RebuiltMixture
from fairseq_kd.loss.signal import DenseSignal
from fairseq_kd.loss.weights import ADAPTIVE, NLL, Weighting
from fairseq_kd.teacher.cached import CachedSignalSource


def open_caches(folders, task, *, temperature: float, weighting: Weighting, stated_teacher=None, subset="train"):
    """A `SignalSource` of one cache, or of the mixture of several, joined by ":".

    The other arguments are those of `CachedSignalSource` and `CachedMixtureSource`.
    """
    paths = listed(folders)
    how = {"temperature": temperature, "stated_teacher": stated_teacher, "subset": subset}
    if len(paths) < 2:
        return CachedSignalSource(folders, task, **how)
    return CachedMixtureSource(paths, task, weighting=weighting, **how)


class CachedMixtureSource:
    """A `SignalSource` that reads several caches of the same data and mixes them, as `loss.rebuilt` defines it."""

    def __init__(
        self, folders: list[str], task, *, temperature: float, weighting: Weighting, stated_teacher=None, subset="train"
    ):
        """temperature: of later calls; it need not be stored. stated_teacher: the checkpoints of all caches, or None.

        Raises KDError when a cache cannot be used, as `CachedSignalSource`; when it has no values at temperature 1, or
        no log-probabilities of the gold tokens though the weights need them; and when the caches are of other data.
        """
        if weighting.kind == NLL:
            raise KDError(
                "--teacher-weights nll does not fit several caches, which do not hold the validation nll of their "
                "teachers: give numbers, such as --teacher-weights 2:1, or make one cache with fairseq-kd cache "
                "--teacher A:B --teacher-weights nll"
            )
        self.weighting = weighting
        self.sources = [CachedSignalSource(folder, task, temperature=None, subset=subset) for folder in folders]
        readers = [source.reader for source in self.sources]
        for reader in readers:
            reader.check_temperature_1("several caches are mixed")
            if weighting.needs_gold:
                reader.check_gold(f"--teacher-weights {ADAPTIVE}")
        check_same_data(readers)
        if stated_teacher is not None:
            members = [sha256 for reader in readers for sha256 in members_of(reader.manifest)]
            names = os.pathsep.join(reader.manifest["teacher"]["path"] for reader in readers)
            check_stated(os.pathsep.join(folders), members, names, listed(stated_teacher))
        names = weighting.logged_names(len(folders))
        self.sums = {name: torch.zeros(()) for name in names}  # of the weights over the tokens, for the log
        self.tokens = 0  # of the last request

    def request(self, sample, keep: torch.Tensor, temperature: float) -> Callable[[], MixtureSignal | RebuiltMixture]:
        """As in `SignalSource`. The returned function raises KDError as that of `CachedSignalSource` does."""
        device = sample["target"].device
        rows = self.sources[0].request_rows(sample, keep)  # those of all caches, see `check_same_data`

        def answer() -> MixtureSignal | RebuiltMixture:
            numbers, gold = rows(), self.weighting.needs_gold
            found = [source.rebuild(numbers, 1.0, device, gold) for source in self.sources]
            parts = tuple(signal for signal, _ in found)
            weights = self._log_weights([lprobs for _, lprobs in found], keep)
            if all(isinstance(part, DenseSignal) for part in parts):
                return MixtureSignal(parts, weights, temperature)
            return RebuiltMixture(parts, weights, self.sources[0].reader.format.types, temperature)

        return answer

    def check_data(self) -> None:
        """As `CachedSignalSource.check_data`, for all caches: they are of the same data."""
        self.sources[0].check_data()

    def signal(self, sample, keep: torch.Tensor, temperature: float) -> MixtureSignal | RebuiltMixture:
        """The answer to `request`."""
        return self.request(sample, keep, temperature)()

    def _log_weights(self, gold: list, keep: torch.Tensor) -> torch.Tensor:
        """ln w_k, (K,) or (N, K). gold: ln p_k(gold), (N,), of each cache; not used if the weights are fixed."""
        if not self.weighting.needs_gold:
            return self.weighting.fixed(len(self.sources)).to(keep.device)
        weights = self.weighting.of_tokens(torch.stack(gold, dim=1), keep)
        self.sums, self.tokens = dict(zip(self.sums, weights.exp().sum(dim=0).unbind(), strict=True)), len(weights)
        return weights


def check_same_data(readers: list) -> None:
    """Raises KDError unless all caches have the same sentences. Then a token has the same row in each of them."""
    first = readers[0]
    for other in readers[1:]:
        if len(first) != len(other):
            found = f"{len(first):,} and {len(other):,} sentences"
        elif len(different := np.flatnonzero((first.crc != other.crc).any(axis=1))):
            found = f"other words in sentence {different[0]}, {len(different):,} sentences differ"
        elif len(different := np.flatnonzero(first.offsets != other.offsets)):
            found = f"another length of sentence {different[0] - 1}"
        else:
            continue
        raise KDError(
            f"teacher caches {first.folder} and {other.folder} are not of the same data ({found}), so they cannot be "
            "used together: make a cache of these data with each teacher"
        )
