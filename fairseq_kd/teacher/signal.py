"""What a teacher says about a batch, and where it comes from.

The criterion asks a `SignalSource` for the signal of a batch and does not know whether a network answers.
"""

from dataclasses import dataclass
from typing import Protocol

import torch

from fairseq_kd.loss.divergence import temper
from fairseq_kd.teacher.loading import Teacher, load_teacher


@dataclass(frozen=True)
class DenseSignal:
    """The teacher's whole distribution at every target position: log-probabilities (B, T, V), temperature 1."""

    lprobs: torch.Tensor

    def rows(self, mask: torch.Tensor, temperature: float) -> torch.Tensor:
        """Log-probabilities (N, V) at `temperature` of the N positions where `mask` (B, T) is true."""
        return temper(self.lprobs[mask], temperature)


class SignalSource(Protocol):
    """Answers for one batch at a time."""

    def signal(self, sample) -> DenseSignal:
        """The teacher's signal for a fairseq batch."""


class OnlineSignalSource:
    """A teacher network that runs beside the student. It is loaded when it is first asked.

    So validation of a student needs no teacher, and a distilled checkpoint can be validated where the teacher is not.
    """

    def __init__(self, path, task, *, data=None, dtype: str = "float32", trust: bool = False):
        """task: the student's; its dictionaries must equal the teacher's."""
        self._arguments = {"path": path, "data": data, "dtype": dtype, "trust": trust}
        self._task = task
        self.teacher: Teacher | None = None

    def signal(self, sample) -> DenseSignal:
        """Run the teacher on the batch. Raises KDError when it cannot be loaded or has other dictionaries."""
        if self.teacher is None:
            task_cfg = self._task.cfg
            languages = (getattr(task_cfg, "source_lang", None), getattr(task_cfg, "target_lang", None))
            teacher = load_teacher(**self._arguments, languages=languages)
            teacher.check_dictionaries(self._task.source_dictionary, self._task.target_dictionary)
            self.teacher = teacher
        return DenseSignal(self.teacher.lprobs(sample))
