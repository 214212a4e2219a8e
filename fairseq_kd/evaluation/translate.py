"""Translate with fairseq's own task, batches and beam search."""

import math
from argparse import Namespace
from dataclasses import asdict, dataclass

import numpy as np
import torch

from fairseq_kd.errors import KDError
from fairseq_kd.progress import Progress
from fairseq_kd.sequence.backend import FairseqBackend


@dataclass(frozen=True)
class TranslateOptions:
    """Beam search, as in fairseq-generate; a batch holds at most max_tokens source tokens, padding included."""

    beam: int = 5
    lenpen: float = 1.0
    max_len_a: float = 0.0
    max_len_b: int = 200
    max_tokens: int = 12000
    fp16: bool = False
    cpu: bool = False

    def __post_init__(self):
        for name in ("beam", "max_len_b", "max_tokens"):
            if getattr(self, name) < 1:
                raise KDError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least 1")
        for name in ("lenpen", "max_len_a"):
            if not math.isfinite(value := getattr(self, name)) or (name == "max_len_a" and value < 0):
                least = "a number from 0" if name == "max_len_a" else "a number"
                raise KDError(f"--{name.replace('_', '-')} {value}: must be {least}")
        if self.fp16 and self.device().type == "cpu":
            raise KDError("--fp16 is for CUDA; on the CPU it would only be slower")

    def device(self) -> torch.device:
        """Where decoding runs: CUDA when there is one and `cpu` is not set."""
        return torch.device("cuda" if torch.cuda.is_available() and not self.cpu else "cpu")

    def dtype(self) -> str:
        """Of the weights."""
        return "float16" if self.fp16 else "float32"

    def as_dict(self) -> dict:
        """For the result file."""
        return asdict(self)


def translate(models: list, task, dataset, options: TranslateOptions, label: str) -> list[str]:
    """Hypotheses as subword strings, every sentence, in order. models: an ensemble, in eval mode on its device."""
    backend = search_backend(models, task, dataset, options)
    progress = Progress(label, len(dataset), "sentences")
    found = backend.translate(np.arange(len(dataset)), progress.advance)
    progress.finish()
    return [task.target_dictionary.string(torch.as_tensor(found[n][0].tokens)) for n in range(len(dataset))]


def search_backend(models: list, task, dataset, options: TranslateOptions) -> FairseqBackend:
    """fairseq's beam search over the dataset."""
    search = Namespace(
        beam=options.beam,
        lenpen=options.lenpen,
        max_len_a=options.max_len_a,
        max_len_b=options.max_len_b,
        sampling=False,
    )
    return FairseqBackend(models, task, dataset, search, options.max_tokens, options.device())
