"""One checkpoint, or an ensemble of several, with the data that it runs on."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from fairseq_kd.artifacts.hashes import sha256_of_several
from fairseq_kd.artifacts.inputs import Inputs
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.public import errors_name_arguments
from fairseq_kd.inference.device import choose_device
from fairseq_kd.inference.frozen import FrozenModel
from fairseq_kd.inference.loading import load_members
from fairseq_kd.inference.opening import gold_batches
from fairseq_kd.loss.signal import DenseSignal


@dataclass(frozen=True)
class Teachers:
    """Frozen models with the same dictionaries, and a task with the loaded subset.

    inputs: the files that they were read from, looked at before.
    """

    members: list[FrozenModel]
    paths: list[str]
    task: object
    subset: str
    inputs: Inputs

    @property
    def dataset(self):
        """Source and gold target of the subset, in the order of the data-bin."""
        return self.task.dataset(self.subset)

    @property
    def source_sizes(self):
        """(sentences,): the length of each source as the models read it, in tokens with EOS."""
        return self.dataset.src_sizes

    @property
    def max_positions(self) -> tuple[int, int]:
        """Longest source and target, in tokens with EOS, that all members accept."""
        sources, targets = zip(*(member.model.max_positions() for member in self.members), strict=True)
        return min(sources), min(targets)

    def models(self, device: torch.device) -> list:
        """The networks, on `device`."""
        return [member.model.to(device) for member in self.members]

    def signal(self, sample, keep: torch.Tensor) -> "AveragedSignal | DenseSignal":
        """Their distributions for the N kept target positions; of several members, the mean of the probabilities."""
        signals = [member.signal(sample, keep) for member in self.members]
        return signals[0] if len(signals) == 1 else AveragedSignal(signals)

    def batches(self, *, max_tokens: int | None = None, cpu: bool = False) -> Iterator[tuple[dict, torch.Tensor]]:
        """Yield (fairseq batch, keep (B, T): where its target is not padding), each sentence of the subset once.

        Both are arguments of `signal`. max_tokens: of a batch, with padding. cpu: do not use CUDA.
        """
        pad = self.task.target_dictionary.pad()
        return gold_batches(self.dataset, pad, choose_device(cpu), "teacher", max_tokens)

    @staticmethod
    def described() -> dict:
        """What a manifest says about them besides the fingerprint."""
        return {}

    def fingerprint(self) -> dict:
        """Paths, and a hash of the contents: the sha256 of one file, or the sha256 of the list of several sha256s.

        Raises KDError when a file has changed since it was read.
        """
        found = [self.inputs.sha256(path) for path in self.paths]
        path = os.pathsep.join(os.path.abspath(path) for path in self.paths)
        return {"path": path, "sha256": sha256_of_several(found)}


class AveragedSignal:
    """The mean of several teachers' probabilities, as in fairseq's ensembles."""

    def __init__(self, signals: list[DenseSignal]):
        self.signals = signals

    def rows(self, start: int, end: int) -> torch.Tensor:
        """Log-probabilities (n, V) of the rows from start to before end."""
        lprobs = torch.stack([signal.rows(start, end) for signal in self.signals])  # (members, n, V)
        return lprobs.logsumexp(dim=0) - torch.tensor(float(len(self.signals))).log()


@errors_name_arguments()
def read_teacher(
    data_bin, teacher, *, subset: str = "train", teacher_data=None, teacher_dtype="float32", trust_checkpoint=None
) -> Teachers:
    """Load a checkpoint, or an ensemble of checkpoints joined by ":", and a subset of a data-bin.

    teacher_data: folder of the teacher's dictionaries; None: the folder that the checkpoint records. teacher_dtype:
    "float32", "float16" or "bfloat16". trust_checkpoint: a checkpoint of `teacher` to read even if it holds code.
    Raises KDError as `open_teachers` does.
    """
    trust = None if trust_checkpoint is None else str(trust_checkpoint)
    return open_teachers(data_bin, str(teacher), subset, data=teacher_data, dtype=teacher_dtype, trust=trust)


def open_teachers(
    data_bin,
    paths: str,
    subset: str,
    *,
    data=None,
    dtype="float32",
    trust=None,
    inputs: Inputs | None = None,
    open_task=None,
    lang_pair=None,
    languages=None,
) -> Teachers:
    """Load the checkpoints in `paths` (joined by ":", as for fairseq-generate) and the subset.

    data, dtype: see `load_frozen`. trust: the path of a checkpoint that may contain code; it must be one of `paths`.
    inputs: gets the files. open_task, lang_pair, languages: see `load_pair`.
    Raises KDError when a checkpoint cannot be used, or when its dictionaries differ from the dictionaries of the data.
    """
    listed = [path for path in str(paths).split(os.pathsep) if path]
    if not listed:
        raise KDError("--teacher: give a checkpoint, or several joined by ':'")
    inputs = inputs or Inputs()
    inputs.watch(*listed)
    inputs.watch_data_bin(data_bin)
    how = {"open_task": open_task, "lang_pair": lang_pair, "languages": languages, "data": data, "dtype": dtype}
    members, task = load_members(data_bin, listed, subset, trust=trust, **how)
    for path in listed:
        inputs.loaded(path)
    return Teachers(members, listed, task, subset, inputs)
