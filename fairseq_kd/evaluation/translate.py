"""Translate one subset of a data-bin with fairseq's own task, batches and beam search."""

import time
from argparse import Namespace
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from fairseq_kd.checkpoint import read_checkpoint
from fairseq_kd.errors import KDError
from fairseq_kd.progress import Progress
from fairseq_kd.sequence.backend import FairseqBackend
from fairseq_kd.teacher.batches import check_longest
from fairseq_kd.teacher.dictionaries import check_same_dictionary, warn_if_newer
from fairseq_kd.teacher.loading import build_model, configure_own_task, data_folder


@dataclass(frozen=True)
class TranslateOptions:
    """Beam search, as in fairseq-generate; the batch is bounded by max_tokens source or target tokens."""

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
        if self.fp16 and self.device().type == "cpu":
            raise KDError("--fp16 is for CUDA; on the CPU it would only be slower")

    def device(self) -> torch.device:
        """Where decoding runs: CUDA when there is one and `cpu` is not set."""
        return torch.device("cuda" if torch.cuda.is_available() and not self.cpu else "cpu")

    def as_dict(self) -> dict:
        """For the result file."""
        return asdict(self)


@dataclass(frozen=True)
class Translations:
    """Hypotheses as subword strings in the order of the corpus, and what it took."""

    hypotheses: list[str]
    source_lang: str
    target_lang: str
    seconds: float
    parameters: int
    updates: int
    dictionary_check: str


@dataclass(frozen=True)
class Opened:
    """A checkpoint's model, in eval mode, with a task on a data-bin."""

    model: object
    task: object
    updates: int
    dictionary_check: str  # see `_check_recorded_dictionaries`


def open_checkpoint(checkpoint, data_bin, trust=False, data_option="DATA_BIN") -> Opened:
    """Raises KDError for a checkpoint that cannot be used, and where its dictionaries are not those of `data_bin`.

    data_option: how the command names `data_bin`.
    """
    state = read_checkpoint(checkpoint, trust=trust)
    updates = state["optimizer_history"][-1]["num_updates"]
    recorded = data_folder(state["cfg"].task)
    configure_own_task(checkpoint, state, data=data_bin, data_option=data_option)
    dictionary_check = _check_recorded_dictionaries(checkpoint, recorded, state["cfg"].task)
    model, task = build_model(checkpoint, state)
    return Opened(model.eval(), task, updates, dictionary_check)


def translate(
    checkpoint, data_bin, subset: str, options: TranslateOptions, sentences: int, trust=False
) -> Translations:
    """Decode `subset` of `data_bin` with the model of `checkpoint`, every sentence, in order.

    sentences: how many references there are.
    Raises KDError for a checkpoint or data-bin that cannot be used, when the subset has another number of sentences,
    and when a sentence is too long for the model.
    """
    opened = open_checkpoint(checkpoint, data_bin, trust)
    model, task = opened.model, opened.task
    try:
        task.load_dataset(subset)
    except FileNotFoundError as error:
        raise KDError(f"{data_bin} has no subset {subset!r} for {_languages(task)} (--subset)") from error
    if len(task.dataset(subset)) != sentences:
        raise KDError(f"{sentences} references, but {subset!r} of {data_bin} has {len(task.dataset(subset))} sentences")
    device = options.device()
    model.to(device)
    if options.fp16:
        model.half()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    started = time.monotonic()
    hypotheses = _decode(model, task, task.dataset(subset), options, device)
    return Translations(
        hypotheses=hypotheses,
        source_lang=task.cfg.source_lang,
        target_lang=task.cfg.target_lang,
        seconds=time.monotonic() - started,
        parameters=parameters,
        updates=opened.updates,
        dictionary_check=opened.dictionary_check,
    )


def _languages(task) -> str:
    return f"{task.cfg.source_lang}-{task.cfg.target_lang}"


def _check_recorded_dictionaries(checkpoint, recorded: str, task_cfg) -> str:
    """Compare with the dictionaries of the training; say what was compared.

    "content": two files, symbol by symbol. "place": DATA_BIN is where the model was trained. "size": the dictionaries
    of the training are gone; one of another size fails when the weights are loaded.
    """
    from fairseq.data import Dictionary

    for side, lang in (("source", task_cfg.source_lang), ("target", task_cfg.target_lang)):
        trained_with = Path(recorded) / f"dict.{lang}.txt"
        if not trained_with.is_file():
            return "size"
        here = Path(task_cfg.data) / f"dict.{lang}.txt"
        if trained_with.samefile(here):
            warn_if_newer(here, checkpoint)
            return "place"
        check_same_dictionary(Dictionary.load(str(trained_with)), Dictionary.load(str(here)), side)
    return "content"


def _decode(model, task, dataset, options: TranslateOptions, device) -> list[str]:
    _check_lengths(task, dataset, model, options)
    search = Namespace(
        beam=options.beam,
        lenpen=options.lenpen,
        max_len_a=options.max_len_a,
        max_len_b=options.max_len_b,
        sampling=False,
    )
    backend = FairseqBackend([model], task, dataset, search, options.max_tokens, device)
    progress = Progress("decoding", len(dataset), "sentences")
    found = backend.translate(np.arange(len(dataset)), progress.advance)
    progress.finish()
    return [task.target_dictionary.string(torch.as_tensor(found[n][0].tokens)) for n in range(len(dataset))]


def _check_lengths(task, dataset, model, options: TranslateOptions) -> None:
    from fairseq import utils

    limit = utils.resolve_max_positions(task.max_positions(), model.max_positions())[0]
    too_long = np.flatnonzero(np.asarray(dataset.src_sizes) > limit)
    if len(too_long):
        raise KDError(
            f"sentence {too_long[0]} has {dataset.src_sizes[too_long[0]]} source tokens, the model has positions for "
            f"{limit}; {len(too_long)} sentences are too long, and leaving them out would change the score"
        )
    check_longest(np.asarray(dataset.src_sizes), options.max_tokens)
