"""Teacher forcing: at each position the teacher's most probable token, given the gold tokens before it.

One forward pass a batch, the same that `fairseq-kd cache` makes. The target keeps the gold's length: its last position
is EOS, and where the teacher would end earlier its next best token stands (`--early-eos cut` ends there instead).
Padding is never a token of the target.
"""

import numpy as np
import torch

from fairseq_kd.inference.opening import collate, length_sorted
from fairseq_kd.loss.signal import ROWS_AT_A_TIME
from fairseq_kd.sequence.backend import Backend
from fairseq_kd.sequence.options import DecodeOptions, Hypothesis
from fairseq_kd.teacher.ensemble import Teachers


class TeacherForcing(Backend):
    """A `Backend` that does not search."""

    name = "fairseq"
    MAX_TOKENS = 4000

    def __init__(self, teachers: Teachers, options: DecodeOptions, device: torch.device):
        super().__init__(teachers.dataset)
        self.teachers, self.device = teachers, device
        self.cut = options.settings()["early_eos"] == "cut"
        self.max_tokens = options.max_tokens or self.MAX_TOKENS
        dataset = teachers.dataset
        self._lengths = np.maximum(dataset.src_sizes, dataset.tgt_sizes)

    def translate_filled(self, sentences: np.ndarray, advance) -> dict[int, list[Hypothesis]]:
        """See `Backend`: one hypothesis each."""
        found = {}
        for numbers in length_sorted(sentences, self._lengths, self.max_tokens):
            found |= self._batch(collate(self.teachers.dataset, numbers, self.device))
            advance(len(numbers))
        return found

    def _batch(self, sample) -> dict[int, list[Hypothesis]]:
        dictionary = self.teachers.task.target_dictionary
        keep = sample["target"].ne(dictionary.pad())  # (B, T)
        lengths = keep.sum(dim=1).tolist()
        last = torch.cumsum(keep.sum(dim=1), dim=0) - 1  # (B,): the row of each sentence's EOS among the N
        tokens, scores = most_probable(
            self.teachers.signal(sample, keep), int(keep.sum()), last, dictionary.eos(), dictionary.pad(), self.cut
        )
        answers, start = {}, 0
        for number, length in zip(sample["id"].tolist(), lengths, strict=True):
            ids, values = tokens[start : start + length], scores[start : start + length]
            end = (
                int(np.flatnonzero(ids == dictionary.eos())[0]) + 1
            )  # with EOS; the last position where nothing is cut
            answers[number] = [Hypothesis(ids[: end - 1], float(values[:end].mean()))]
            start += length
        return answers


def most_probable(signal, count: int, last: torch.Tensor, eos: int, pad: int, cut: bool):
    """(token ids (N,), their log-probabilities (N,)) of a signal of N = count rows, as numpy arrays.

    last (B,): rows whose token is EOS, whatever the teacher says. cut: elsewhere EOS may be the answer.
    """
    ids, scores = [], []
    is_last = torch.zeros(count, dtype=torch.bool, device=last.device)
    is_last[last] = True
    for start in range(0, count, ROWS_AT_A_TIME):
        end = min(start + ROWS_AT_A_TIME, count)
        lprobs = signal.rows(start, end).clone()  # (n, V)
        allowed_eos = is_last[start:end]
        forced = lprobs[:, eos].clone()
        lprobs[:, pad] = float("-inf")
        if not cut:
            lprobs[:, eos] = float("-inf")
        values, best = lprobs.max(dim=-1)
        ids.append(torch.where(allowed_eos, eos, best))
        scores.append(torch.where(allowed_eos, forced, values))
    return torch.cat(ids).cpu().numpy(), torch.cat(scores).float().cpu().numpy()
