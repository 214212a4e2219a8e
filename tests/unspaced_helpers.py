"""A small language without spaces: Chinese sentences of a few words, with their English sources."""

import itertools

from helpers import losses_of_training

WHO = {"the cat": "猫", "the driver": "司机", "my friend": "我的朋友", "the doctor": "医生"}
DOES = {"sees": "看见", "likes": "喜欢", "found": "找到了"}
WHAT = {"a red book": "一本红色的书", "two apples": "两个苹果", "the old house": "旧房子", "many flowers": "很多花"}


def sentences() -> tuple[list[str], list[str]]:
    """48 pairs: English, Chinese."""
    all_three = list(itertools.product(WHO, DOES, WHAT))
    return [" ".join(words) for words in all_three], [f"{WHO[a]}{DOES[b]}{WHAT[c]}。" for a, b, c in all_three]


def write_corpus(folder, source="en", target="zh") -> None:
    """Write train, valid and test from `sentences`; valid and test have eight lines each."""
    for lang, lines in zip((source, target), sentences(), strict=True):
        for subset, chosen in (("train", lines), ("valid", lines[::6]), ("test", lines[3::6])):
            (folder / f"{subset}.{lang}").write_text("".join(f"{line}\n" for line in chosen), encoding="utf-8")


def write_checkpoint(data_bin, path) -> None:
    """Write the checkpoint of a model after one update."""
    words = ("--criterion", "label_smoothed_cross_entropy")
    _, trainer = losses_of_training(data_bin, *words, updates=1)
    trainer.consolidate_optimizer()
    trainer.save_checkpoint(str(path), {"train_iterator": {"epoch": 1}, "val_loss": 1.0})
