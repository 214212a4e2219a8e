"""Open data-bins outside of a training, with a task and as batches of sentences. With a model: `loading`."""

from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from fairseq_kd.artifacts.data_bin import check_subset, language_pairs
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.paths import check_data_bin
from fairseq_kd.core.progress import Progress
from fairseq_kd.inference.language_tokens import load_subset
from fairseq_kd.inference.multilingual import MULTI, PLAIN

MAX_TOKENS = 4000  # default batch size of `gold_batches`: source or target tokens, with padding


def length_sorted(sentences: np.ndarray, lengths: np.ndarray, max_tokens: int) -> Iterator[np.ndarray]:
    """Yield batches of sentence numbers by falling length (ties by number), at most max_tokens each, with padding.

    sentences: the numbers to batch. lengths: of all sentences. A sentence longer than max_tokens is a batch of its own.
    """
    longest = lengths[sentences]
    order = sentences[np.argsort(-longest, kind="stable")]
    start = 0
    while start < len(order):
        count = max(1, max_tokens // int(lengths[order[start]]))
        yield order[start : start + count]
        start += count


def collate(dataset, sentences: np.ndarray, device: torch.device) -> dict:
    """A fairseq batch on `device`. The collater reorders the rows; sample["id"] (B,) has their sentence numbers."""
    from fairseq import utils

    sample = dataset.collater([dataset[int(i)] for i in sentences])
    return utils.move_to_cuda(sample, device) if device.type == "cuda" else sample


def gold_batches(
    dataset, pad: int, device: torch.device, label: str, max_tokens: int | None = None, sentences=None
) -> Iterator[tuple[dict, torch.Tensor]]:
    """Yield (fairseq batch, keep (B, T): where its target is not padding), each sentence once.

    The decoder input is the gold prefix, as in training. label: of the progress on standard error. max_tokens: of a
    batch, with padding; None: MAX_TOKENS. sentences: the numbers of those that are wanted; None: all.
    """
    lengths = np.maximum(dataset.src_sizes, dataset.tgt_sizes)
    sentences = np.arange(len(dataset)) if sentences is None else sentences
    progress = Progress(label, len(sentences), "sentences")
    for numbers in length_sorted(sentences, lengths, max_tokens or MAX_TOKENS):
        sample = collate(dataset, numbers, device)
        yield sample, sample["target"].ne(pad)
        progress.advance(len(numbers))
    progress.finish()


def check_longest(lengths: np.ndarray, max_tokens: int) -> None:
    """Raises KDError when a sentence does not fit in a batch."""
    if (longest := int(lengths.max(initial=0))) > max_tokens:
        raise KDError(
            f"--max-tokens {max_tokens}: the longest sentence has {longest} tokens; give at least this number"
        )


def check_positions(src_sizes: np.ndarray, tgt_sizes: np.ndarray, limits: tuple[int, int], who="the model") -> None:
    """Raises KDError when a sentence is longer than the positions of a model. limits: of (encoder, decoder)."""
    for side, sizes, limit in zip(("source", "target"), (src_sizes, tgt_sizes), limits, strict=True):
        if len(too_long := np.flatnonzero(np.asarray(sizes) > limit)):
            raise KDError(
                f"sentence {too_long[0]} has {sizes[too_long[0]]} {side} tokens, but {who} has positions for "
                f"{limit} ({len(too_long):,} sentences are too long): leave them out of the data-bin"
            )


def open_data(data_bin, languages: tuple[str, str], subset: str, *, needs_target: bool = True, like=None):
    """A translation task on `data_bin` with `subset` loaded as in fairseq-train.

    needs_target: False where the sources are enough. like: a FrozenModel; if its task adds language tokens, the data
    are opened with that task.
    Raises KDError when dictionaries or subset are missing, and for what `check_subset` refuses.
    """
    source, target = languages
    check_has_dictionaries(data_bin, languages)
    impl = check_subset(data_bin, subset, languages, combine=subset == "train")
    task = _set_up(data_bin, languages, impl, like)
    try:
        load_subset(task, subset, combine=subset == "train")
    except FileNotFoundError as error:
        raise KDError(f"{data_bin} has no subset {subset!r} for {source}-{target} (--subset)") from error
    if needs_target and task.dataset(subset).tgt is None:
        raise KDError(f"subset {subset!r} of {data_bin} has no target side, but both sides are needed: binarise both")
    return task


def check_has_dictionaries(data_bin, languages: tuple[str, str]) -> None:
    """Raises KDError unless `data_bin` is a folder with the dictionaries of (source, target)."""
    check_data_bin(data_bin)
    for lang in languages:
        if not (Path(data_bin) / f"dict.{lang}.txt").is_file():
            raise KDError(f"{data_bin} has no dict.{lang}.txt: it is not a data-bin for {'-'.join(languages)}")


def _set_up(data_bin, languages, impl: str | None, like):
    """The task without data. impl: the value of --dataset-impl. like: see `open_data`."""
    from fairseq.tasks import setup_task
    from fairseq.tasks.translation import TranslationConfig, TranslationTask

    if like is not None and like.layout != PLAIN:
        fresh = Namespace(**vars(like.task_options) | {"data": str(data_bin), "dataset_impl": impl})
        if isinstance(fresh.left_pad_source, bool) and fresh.task == MULTI:  # evaluated when the task was set up
            fresh.left_pad_source, fresh.left_pad_target = str(fresh.left_pad_source), str(fresh.left_pad_target)
        task = setup_task(fresh)
        task.cfg = task.cfg or task.args
        return task
    cfg = TranslationConfig(
        data=str(data_bin),
        source_lang=languages[0],
        target_lang=languages[1],
        upsample_primary=1,  # fairseq's own default of -1 fails where there are train1, train2, ...
        dataset_impl=impl,
        # fairseq takes these two from the options of a training
        train_subset="train",
        required_seq_len_multiple=1,
    )
    return TranslationTask.setup_task(cfg)


def infer_languages(data_bin) -> tuple[str, str]:
    """(source, target) from the manifest or the file names of a data-bin. Raises KDError unless they show one pair."""
    pairs = known_pairs(data_bin)
    if len(pairs) > 1:
        listed = ", ".join(f"{source}-{target}" for source, target in pairs)
        raise KDError(f"{data_bin} holds more than one language pair ({listed}): give --source-lang and --target-lang")
    if not pairs:
        raise KDError(f"the file names in {data_bin} do not show its languages: give --source-lang and --target-lang")
    return pairs[0]


def known_pairs(data_bin) -> list[tuple[str, str]]:
    """`language_pairs` of a data-bin. Raises KDError for a folder that is no data-bin."""
    check_data_bin(data_bin)
    return language_pairs(data_bin)


def languages_for(data_bin, asked: tuple) -> tuple:
    """(source, target) for a checkpoint that records none: `asked`, or the pair of the data-bin, or (None, None).

    asked: see `read_pair`. Raises KDError for a folder that is no data-bin.
    """
    pairs = known_pairs(data_bin)
    return asked if all(asked) else pairs[0] if len(pairs) == 1 else (None, None)
