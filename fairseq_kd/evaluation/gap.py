"""Overfitting: how much better a model predicts sentences of its training set than other sentences.

    NLL   the mean of -log2 p(y) over the target tokens y, with the end of the sentence, given gold prefixes
    gap   NLL of the evaluated subset - NLL of a sample of the training set

The sample has as many target tokens as the subset: sentences are drawn without replacement, in an order that the seed
decides, until the number is reached. Sentences that are too long for the model are left out, as in training. The
interval of 95 % has the percentiles of a bootstrap, which draws sentences of both sets independently (Efron &
Tibshirani 1993, chapter 13).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from fairseq_kd.artifacts.manifest import check_files, read_prepared
from fairseq_kd.core.errors import KDError
from fairseq_kd.evaluation.system import System
from fairseq_kd.inference.opening import gold_batches, open_data
from fairseq_kd.loss.signal import ROWS_AT_A_TIME

TAILS = (0.025, 0.975)
RESAMPLES_AT_ONCE = 256


@dataclass(frozen=True)
class GapOptions:
    """data: the data-bin of the training; None: the evaluated one. seed: of the sample and of the bootstrap."""

    data: str | None = None
    seed: int = 1

    def __post_init__(self):
        if self.seed < 0:
            raise KDError(f"--gap-seed {self.seed}: must be 0 or above")


@dataclass(frozen=True)
class Likelihoods:
    """Of n sentences: the sum of -log2 p over the target tokens, and their number; numpy float64 (n,) each."""

    bits: np.ndarray
    tokens: np.ndarray

    @property
    def mean(self) -> float:
        """Bits per token."""
        return float(self.bits.sum() / self.tokens.sum())

    def resampled(self, resamples: int, rng: np.random.Generator) -> np.ndarray:
        """The mean of each of `resamples` samples of n sentences with replacement: (resamples,)."""
        count, means = len(self.bits), []
        for start in range(0, resamples, RESAMPLES_AT_ONCE):
            drawn = rng.integers(count, size=(min(RESAMPLES_AT_ONCE, resamples - start), count))
            means.append(self.bits[drawn].sum(axis=1) / self.tokens[drawn].sum(axis=1))
        return np.concatenate(means)

    def as_dict(self) -> dict:
        """For the result."""
        return {"sentences": len(self.bits), "tokens": int(self.tokens.sum()), "nll_bits": self.mean}


class Gap:
    """The measure for one system. The training set is opened and checked on construction."""

    def __init__(self, options: GapOptions, system: System, data_bin):
        """data_bin: the evaluated one. Raises KDError when the training set is missing or has other dictionaries."""
        self.options, self.system = options, system
        self.data = str(options.data or data_bin)
        languages = (system.task.cfg.source_lang, system.task.cfg.target_lang)
        if (manifest := read_prepared(self.data)) is not None:
            check_files(self.data, {n: h for n, h in manifest["files"].items() if n.startswith(("train.", "dict."))})
        task = open_data(self.data, languages, "train", like=system.frozen.members[0])
        system.frozen.check_dictionaries(task.source_dictionary, task.target_dictionary, ("the checkpoint", self.data))
        self.training = task.dataset("train")

    def run(self, subset: str, resamples: int) -> dict:
        """{"data", "seed", "train", "evaluated", "too_long", "gap_bits", "interval"}.

        train, evaluated: {"sentences", "tokens", "nll_bits"}. too_long: sentences of the training set that cannot be in
        the sample. interval: (low, high) of the gap; None without resamples.
        """
        ours = likelihoods(self.system, self.system.dataset, f"loss on {subset}")
        chosen, too_long = self._sample(int(ours.tokens.sum()))
        theirs = likelihoods(self.system, self.training, "loss on train", chosen)
        interval = None
        if resamples:
            streams = [np.random.default_rng(seed) for seed in np.random.SeedSequence(self.options.seed).spawn(2)]
            gaps = ours.resampled(resamples, streams[0]) - theirs.resampled(resamples, streams[1])
            interval = np.quantile(gaps, TAILS).tolist()
        return {
            "data": self.data,
            "seed": self.options.seed,
            "train": theirs.as_dict(),
            "evaluated": ours.as_dict(),
            "too_long": too_long,
            "gap_bits": ours.mean - theirs.mean,
            "interval": interval,
        }

    def _sample(self, tokens: int) -> tuple[np.ndarray, int]:
        """(numbers of the drawn sentences in order, how many sentences are too long)."""
        limits = self.system.frozen.max_positions
        sizes = [np.asarray(side) for side in (self.training.src_sizes, self.training.tgt_sizes)]
        fits = np.logical_and(*(side <= limit for side, limit in zip(sizes, limits, strict=True)))
        order = np.random.default_rng(self.options.seed).permutation(len(fits))
        order = order[fits[order]]
        if not len(order):
            raise KDError(f"--gap: no sentence of the training set of {self.data} fits into the model's positions: "
                          "give the data-bin of its training (--gap-data)")  # fmt: skip
        count = int(np.searchsorted(np.cumsum(sizes[1][order]), tokens)) + 1
        return np.sort(order[:count]), int((~fits).sum())


def likelihoods(system: System, dataset, label: str, chosen=None) -> Likelihoods:
    """The likelihoods of the sentences `chosen` of a dataset with targets; None: of all.

    Raises KDError when a probability is 0 or not a number.
    """
    pad, device = system.task.target_dictionary.pad(), system.options.device()
    bits, tokens = np.zeros(len(dataset)), np.zeros(len(dataset))
    for sample, keep in gold_batches(dataset, pad, device, label, sentences=chosen):
        signal, gold = system.frozen.signal(sample, keep), sample["target"][keep]
        found = [
            signal.rows(start, min(start + ROWS_AT_A_TIME, len(gold)))
            .double()
            .gather(-1, gold[start : start + ROWS_AT_A_TIME].unsqueeze(-1))
            .squeeze(-1)
            for start in range(0, len(gold), ROWS_AT_A_TIME)
        ]
        rows = keep.nonzero()[:, 0]  # the sentence of the batch of each token
        sums = torch.zeros(len(keep), dtype=torch.float64, device=rows.device).index_add_(0, rows, torch.cat(found))
        numbers = sample["id"].cpu().numpy()
        bits[numbers] = -sums.cpu().numpy() / math.log(2)
        tokens[numbers] = keep.sum(dim=1).cpu().numpy()
    if not np.isfinite(bits).all():
        raise KDError(f"{system.frozen.path} gives probabilities that are not finite: its training diverged; use "
                      "another one")  # fmt: skip
    chosen = np.arange(len(dataset)) if chosen is None else chosen
    return Likelihoods(bits[chosen], tokens[chosen])
