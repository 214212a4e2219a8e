"""Several teachers that run during the training of the student: their mixture, or the better signal for each token."""

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from fairseq_kd.artifacts.hashes import sha256_file
from fairseq_kd.inference.mixed import recorded_nll
from fairseq_kd.loss.mixture import MixtureSignal, gold_lprobs, joined, largest_lprobs
from fairseq_kd.loss.signal import TopKSignal, WholeSignal
from fairseq_kd.loss.weights import NLL, SENTENCE, Weighting, one_hot, per_sentence
from fairseq_kd.teacher.online import OnlineSignalSource

SUPERVISED, UNSUPERVISED = "supervised", "unsupervised"


class _Networks:
    """A `SignalSource` of several networks. A subclass has `_signal`.

    sums: name -> a sum over the tokens of the last request, for the log. The names are always the same. tokens: their
    number.
    """

    def __init__(self, members: list, names: tuple[str, ...], top_k: int):
        self.members, self.tokens, self._top_k = members, 0, top_k
        self.sums: dict[str, torch.Tensor] = {name: torch.zeros(()) for name in names}

    def choose_dtype(self, student, autocast: str = "none") -> None:
        """As `OnlineSignalSource.choose_dtype`, for each network."""
        for member in self.members:
            member.choose_dtype(student, autocast)

    def check_file(self) -> None:
        """As `OnlineSignalSource.check_file`, for each network."""
        for member in self.members:
            member.check_file()

    def load(self) -> None:
        """Load the networks that run. Raises KDError as `OnlineSignalSource.load`."""
        for member in self.members:
            member.load()

    def max_target_positions(self) -> int:
        """As `OnlineSignalSource.max_target_positions`, for all networks."""
        return min(member.max_target_positions() for member in self.members)

    def request(self, sample, keep: torch.Tensor, temperature: float) -> Callable[[], WholeSignal | TopKSignal]:
        """As in `SignalSource`. The networks run before the student, whose activations are not in memory yet."""
        signal = self.signal(sample, keep, temperature)
        return lambda: signal

    def signal(self, sample, keep: torch.Tensor, temperature: float) -> WholeSignal | TopKSignal:
        """Run the networks on the batch. Raises KDError as `OnlineSignalSource.load`."""
        signal = replace(self._signal(sample, keep), temperature=temperature)
        self.tokens = len(signal)
        return signal.truncate(self._top_k) if self._top_k else signal


class MixtureSource(_Networks):
    """The mixture of several teachers, with weights that are constant or depend on the gold token.

    Paths with the same content are one network, which is loaded and run once. A teacher whose constant weight is 0 does
    not run.
    """

    def __init__(self, members: list[OnlineSignalSource], weighting: Weighting, top_k: int = 0):
        """members: the teachers, in the order of --teacher. top_k: of the mixture; 0: keep all."""
        super().__init__(members, weighting.logged_names(len(members)), top_k)
        self.weighting = weighting

    @functools.cached_property
    def _first_with_same_content(self) -> list[int]:
        """For each teacher the number of the first one with the same file or content."""
        paths = [member.path for member in self.members]
        return [next(i for i, other in enumerate(paths) if _same_content(other, path)) for path in paths]

    @functools.cached_property
    def _fixed(self) -> torch.Tensor:
        nll = [recorded_nll(member.load()) for member in self.members] if self.weighting.kind == NLL else None
        return self.weighting.fixed(len(self.members), nll)

    @functools.cached_property
    def _runs(self) -> list[int]:
        """The numbers of the networks that run."""
        numbers = self._first_with_same_content
        if self.weighting.needs_gold:
            return sorted(set(numbers))
        return sorted({numbers[k] for k, log_weight in enumerate(self._fixed.tolist()) if log_weight > -math.inf})

    def load(self) -> None:
        """As `_Networks.load`. Raises KDError for a teacher without a recorded nll, if the weights need it."""
        for number in self._runs:
            self.members[number].load()

    def _signal(self, sample, keep: torch.Tensor) -> WholeSignal:
        numbers, runs = self._first_with_same_content, self._runs
        signals = {number: self.members[number].signal(sample, keep, 1.0) for number in runs}
        weights = self._log_weights(sample, keep, signals)  # (K,) or (N, K)
        groups = [[k for k, number in enumerate(numbers) if number == run] for run in runs]
        merged = torch.stack([weights[..., group].logsumexp(dim=-1) for group in groups], dim=-1)
        return signals[runs[0]] if len(runs) == 1 else MixtureSignal(tuple(signals.values()), merged)

    def _log_weights(self, sample, keep: torch.Tensor, signals: dict) -> torch.Tensor:
        if not self.weighting.needs_gold:
            return self._fixed.to(keep.device)
        found = {number: gold_lprobs(signal, sample["target"][keep]) for number, signal in signals.items()}
        gold = torch.stack([found[number] for number in self._first_with_same_content], dim=1)
        weights = self.weighting.of_tokens(gold, keep)
        self.sums = dict(zip(self.sums, weights.exp().sum(dim=0).unbind(), strict=True))
        return weights


class PartitionSource(_Networks):
    """Data-partitioning KD: each token, or sentence, learns from the teacher or from the student's frozen start.

    supervised: from the one that gives the gold token more probability. unsupervised: from the one that gives its own
    most probable token more probability. On equal values from the teacher. With several teachers, their mixture is the
    teacher.
    Source: Roth et al. 2023 (arXiv 2310.17653), data-partitioning distillation. The formula for sentences is ours.
    """

    def __init__(self, teacher, start: OnlineSignalSource, kind: str, per: str, top_k: int = 0):
        """teacher: an `OnlineSignalSource` or a `MixtureSource`, without a top_k. kind: SUPERVISED or UNSUPERVISED."""
        super().__init__([teacher, start], ("from_teacher", "from_start", *getattr(teacher, "sums", ())), top_k)
        self.kind, self.per = kind, per

    def _signal(self, sample, keep: torch.Tensor) -> MixtureSignal:
        signals = [member.signal(sample, keep, 1.0) for member in self.members]
        gold = sample["target"][keep]
        values = torch.stack([self._value(signal, gold) for signal in signals], dim=1)  # (N, 2)
        chosen = one_hot(per_sentence(values, keep) if self.per == SENTENCE else values)
        counts = dict(zip(("from_teacher", "from_start"), chosen.exp().sum(dim=0).unbind(), strict=True))
        self.sums = counts | getattr(self.members[0], "sums", {})
        return joined(signals, chosen)

    def _value(self, signal: WholeSignal, gold: torch.Tensor) -> torch.Tensor:
        return gold_lprobs(signal, gold) if self.kind == SUPERVISED else largest_lprobs(signal)


def _same_content(one: Path, other: Path) -> bool:
    if one == other or one.samefile(other):
        return True
    return one.stat().st_size == other.stat().st_size and sha256_file(one) == sha256_file(other)
