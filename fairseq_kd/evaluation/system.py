"""The evaluated system: the model of a checkpoint, opened on a subset of a data-bin.

It translates with fairseq's own task, batches and beam search, unless `backend` gives it another search.
"""

import contextlib
import math
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from fairseq_kd.artifacts.data_bin import check_subset
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.progress import Progress
from fairseq_kd.inference.checkpoint import read_checkpoint, updates_of
from fairseq_kd.inference.dictionaries import check_recorded_dictionaries
from fairseq_kd.inference.frozen import FrozenModel, build_model, configure_own_task
from fairseq_kd.inference.language_tokens import load_subset
from fairseq_kd.inference.multilingual import check_pair, read_pair
from fairseq_kd.inference.opening import check_longest
from fairseq_kd.inference.precision import OFF
from fairseq_kd.sequence.backend import Backend, FairseqBackend

if TYPE_CHECKING:  # it imports this module
    from fairseq_kd.evaluation.ensemble import Ensemble


@dataclass(frozen=True)
class TranslateOptions:
    """Options of beam search as in fairseq-generate. A batch has at most max_tokens source tokens, with padding."""

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
        """The device that decodes: CUDA if it is available and `cpu` is not set."""
        return torch.device("cuda" if torch.cuda.is_available() and not self.cpu else "cpu")

    def dtype(self) -> str:
        """The dtype of the weights."""
        return "float16" if self.fp16 else "float32"

    def as_dict(self) -> dict:
        """The options for the result file."""
        return asdict(self)


def translate(backend: Backend, dictionary, label: str) -> list[str]:
    """Hypotheses of all sentences of the backend in order, as subword strings. dictionary: of the target."""
    count = len(backend.dataset)
    progress = Progress(label, count, "sentences")
    found = backend.translate(np.arange(count), progress.advance)
    progress.finish()
    return [dictionary.string(torch.as_tensor(found[n][0].tokens)) for n in range(count)]


def search_backend(models: list, task, dataset, options: TranslateOptions, nbest: int = 1) -> FairseqBackend:
    """A backend that runs fairseq's beam search over the dataset. models: an ensemble, in eval mode on its device.

    nbest: hypotheses per sentence, at most the beam.
    """
    search = Namespace(
        beam=options.beam,
        nbest=nbest,
        lenpen=options.lenpen,
        max_len_a=options.max_len_a,
        max_len_b=options.max_len_b,
        sampling=False,
    )
    return FairseqBackend(models, task, dataset, search, options.max_tokens, options.device())


@dataclass(frozen=True)
class System:
    """A model that can translate `dataset` and give probabilities under gold prefixes.

    frozen: the evaluated model, or `ensemble.Ensemble`. dataset: None if no subset was loaded. seed: of its training;
    None if the checkpoint records none. dictionary_check: see `check_recorded_dictionaries`. search: from a dataset to
    the backend that translates it; None: fairseq's beam search.
    """

    frozen: "FrozenModel | Ensemble"
    task: object
    dataset: object
    options: TranslateOptions
    updates: int
    seed: int | None
    dictionary_check: str
    autocast: str | None = None  # --autocast of its training, if that was not in one precision
    search: Callable[[object], Backend] | None = None

    @property
    def model(self):
        """The network of a system that is no ensemble, in eval mode on its device."""
        (model,) = self.models
        return model

    @property
    def models(self) -> list:
        """The networks: one, or the members of an ensemble."""
        return [member.model for member in self.frozen.members]

    def source_limit(self) -> int:
        """The largest number of source tokens, with EOS, for which model and task have positions."""
        from fairseq import utils

        return utils.resolve_max_positions(self.task.max_positions(), self.frozen.max_positions)[0]

    def backend(self, dataset=None, nbest: int = 1) -> Backend:
        """What translates a dataset with the model. None: the subset of the system. nbest: see `search_backend`."""
        dataset = self.dataset if dataset is None else dataset
        if self.search is not None:
            return self.search(dataset)
        return search_backend(self.models, self.task, dataset, self.options, nbest)

    def translate(self, dataset=None, label: str = "decoding") -> list[str]:
        """Hypotheses as subword strings, in the order of `dataset`. None: the subset of the system."""
        dataset = self.dataset if dataset is None else dataset
        check_lengths(self, dataset)
        return translate(self.backend(dataset), self.task.target_dictionary, label)


def open_system(
    checkpoint,
    data_bin,
    subset: str,
    options: TranslateOptions,
    sentences: int,
    *,
    trust=False,
    data_option="DATA_BIN",
    language_tokens: bool = False,
    lang_pair=None,
) -> System:
    """Load the model of `checkpoint` and the subset.

    sentences: the number of references. data_option: the option that gave `data_bin`, for error messages.
    language_tokens: see `check_configuration`. lang_pair: see `load_pair`.
    Raises KDError for a checkpoint or data-bin that cannot be used, when the subset has another number of sentences,
    and when a sentence is too long for the model.
    """
    how = {"trust": trust, "data_option": data_option, "language_tokens": language_tokens, "lang_pair": lang_pair}
    system = load_system(checkpoint, data_bin, options, subset=subset, **how)
    if len(system.dataset) != sentences:
        raise KDError(
            f"there are {sentences} references, but subset {subset!r} of {data_bin} has {len(system.dataset)} "
            "sentences, so they cannot be compared: give the references of this subset (--reference) or another "
            "--subset"
        )
    check_lengths(system, system.dataset)
    return system


def load_system(
    checkpoint,
    data_bin,
    options: TranslateOptions,
    *,
    subset=None,
    dtype=None,
    trust=False,
    data_option="DATA_BIN",
    language_tokens: bool = False,
    lang_pair=None,
) -> System:
    """Load the model of `checkpoint` with the dictionaries of `data_bin`, and the subset.

    subset: None: no subset is loaded, and the system has no dataset. dtype: of the weights; None: the dtype of
    `options`. Raises KDError for a checkpoint or data-bin that cannot be used.
    """
    state = read_checkpoint(checkpoint, trust=trust)
    updates, seed = updates_of(state), state["cfg"].common.get("seed")
    asked = read_pair(lang_pair)
    how = {"languages": asked, "data_option": data_option, "language_tokens": language_tokens}
    recorded = configure_own_task(checkpoint, state, data=data_bin, **how)
    check_pair(checkpoint, (state["cfg"].task.source_lang, state["cfg"].task.target_lang), asked)
    if subset is not None:
        _read_as_it_is_stored(state["cfg"].task, data_bin, subset)
    dictionary_check = check_recorded_dictionaries(checkpoint, recorded, state["cfg"].task)
    model, task = build_model(checkpoint, state, trust)
    dataset = None if subset is None else _load_subset(task, data_bin, subset)
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise KDError(f"some weights of {checkpoint} are not finite: its training diverged; use another checkpoint")
    model.to(options.device())
    frozen = FrozenModel(model, task, checkpoint, dtype or options.dtype())
    return System(frozen, task, dataset, options, updates, seed, dictionary_check, _autocast(state["cfg"]))


def _autocast(cfg) -> str | None:
    found = str(cfg.criterion.get("autocast") or OFF)
    return None if found == OFF else found


def _load_subset(task, data_bin, subset: str):
    try:
        load_subset(task, subset)
    except FileNotFoundError as error:
        languages = f"{task.cfg.source_lang}-{task.cfg.target_lang}"
        raise KDError(f"{data_bin} has no subset {subset!r} for {languages} (--subset)") from error
    return task.dataset(subset)


def _read_as_it_is_stored(task_cfg, data_bin, subset: str) -> None:
    """Set the format of the subset, not the format of the training data.

    Raises KDError as `check_subset` does.
    """
    from omegaconf import open_dict

    impl = check_subset(data_bin, subset, (task_cfg.source_lang, task_cfg.target_lang))
    with contextlib.nullcontext() if isinstance(task_cfg, Namespace) else open_dict(task_cfg):
        task_cfg.dataset_impl = impl


def check_lengths(system: System, dataset) -> None:
    """Raises KDError when a source sentence is too long for the model or for a batch."""
    sizes = np.asarray(dataset.src_sizes)
    limit = system.source_limit()
    too_long = np.flatnonzero(sizes > limit)
    if len(too_long):
        raise KDError(
            f"sentence {too_long[0]} has {sizes[too_long[0]]} source tokens, but the model has positions for {limit}; "
            f"{len(too_long)} sentences are too long, and leaving them out would change the score: evaluate on a "
            "subset without them"
        )
    check_longest(sizes, system.options.max_tokens)
