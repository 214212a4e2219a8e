"""Tiny random models of fairseq's tasks that add language tokens."""

import torch
from helpers import build, write_checkpoint

PAIR = ("--source-lang", "qaa", "--target-lang", "qab")
BART = ("--task", "translation_from_pretrained_bart", "--langs", "qaa,qab,qac")
MULTI = ("--task", "translation_multi_simple_epoch", "--langs", "qaa,qab,qac", "--lang-pairs", "qaa-qab")
TASKS = {  # name -> options of its training
    "bart": (*BART, *PAIR),
    "bart with bos": (*BART, *PAIR, "--prepend-bos"),
    "multi": (*MULTI, "--encoder-langtok", "tgt", "--decoder-langtok"),
    "multi replacing": (
        *(*MULTI, "--encoder-langtok", "src", "--decoder-langtok"),
        *("--lang-tok-style", "mbart", "--lang-tok-replacing-bos-eos"),
    ),
}
ARCHITECTURES = {"bart": ("--arch", "mbart_base")}  # of the others: a transformer


def write_random(path, data_bin, *options) -> None:
    """Write a checkpoint whose random weights prefer some tokens clearly."""
    write_checkpoint(path, data_bin, *options)
    state = torch.load(path)
    generator = torch.Generator().manual_seed(5)
    for name, value in state["model"].items():
        if value.is_floating_point() and value.numel() > 1 and not name.startswith("decoder.output_projection"):
            state["model"][name] = value + 0.3 * torch.randn(value.shape, generator=generator)
    for copy in ("decoder.embed_tokens.weight", "decoder.output_projection.weight"):
        state["model"][copy] = state["model"]["encoder.embed_tokens.weight"]
    torch.save(state, path)


def stock_criterion(data_bin, *options):
    """(task, criterion) of a training with fairseq's own label-smoothed cross-entropy."""
    words = ("--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1")
    _, task, _, criterion = build(data_bin, *options, *words)
    return task, criterion
