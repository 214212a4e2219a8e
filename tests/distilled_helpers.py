"""A distilled data-bin without a teacher: the gold targets, changed by a rule."""

import shutil
from pathlib import Path

import torch
from fairseq.data import Dictionary, indexed_dataset

PAIR = "qaa-qab"


def reversed_words(number: int, tokens: torch.Tensor) -> torch.Tensor:
    """The words in reverse order, for every third sentence twice, so that lengths differ from the gold target."""
    words = tokens[:-1].flip(0)
    return torch.cat([words, words, tokens[-1:]] if number % 3 == 0 else [words, tokens[-1:]])


def rewrite(folder, lang: str, change, subset: str = "train", sentences=None) -> None:
    """Rewrite one side of a subset of a data-bin: change(number, tokens) gives each sentence (sentences=None: all)."""
    prefix = str(Path(folder) / f"{subset}.{PAIR}.{lang}")
    old = indexed_dataset.make_dataset(prefix, impl="mmap")
    items = [change(i, old[i]) for i in (range(len(old)) if sentences is None else sentences)]
    types = len(Dictionary.load(str(Path(folder) / f"dict.{lang}.txt")))
    for kind in ("bin", "idx"):
        Path(f"{prefix}.{kind}").unlink()
    builder = indexed_dataset.make_builder(f"{prefix}.bin", impl="mmap", vocab_size=types)
    for item in items:
        builder.add_item(item)
    builder.finalize(f"{prefix}.idx")


def make_distilled(data_bin, folder, change=reversed_words):
    """Write a data-bin with the training subset of another one and changed targets; return the folder."""
    folder.mkdir()
    for path in [*data_bin.glob("dict.*.txt"), *data_bin.glob(f"train.{PAIR}.*")]:
        shutil.copy(path, folder)
    rewrite(folder, "qab", change)
    return folder


def targets_of(folder) -> list[tuple]:
    """The ids of each target of the training set of a data-bin."""
    sides = indexed_dataset.make_dataset(str(Path(folder) / f"train.{PAIR}.qab"), impl="mmap")
    return [tuple(sides[number].tolist()) for number in range(len(sides))]
