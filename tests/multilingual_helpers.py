"""Tiny random models of fairseq's tasks that add language tokens."""

import io

import torch
from conftest import PACKAGE
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq_cli import generate
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


def write_random(path, data_bin, *words) -> None:
    """Write a checkpoint whose random weights prefer some tokens clearly."""
    write_checkpoint(path, data_bin, *words)
    state = torch.load(path)
    generator = torch.Generator().manual_seed(5)
    for name, value in state["model"].items():
        if value.is_floating_point() and value.numel() > 1 and not name.startswith("decoder.output_projection"):
            state["model"][name] = value + 0.3 * torch.randn(value.shape, generator=generator)
    for copy in ("decoder.embed_tokens.weight", "decoder.output_projection.weight"):
        state["model"][copy] = state["model"]["encoder.embed_tokens.weight"]
    torch.save(state, path)


def stock_criterion(data_bin, *task):
    """(task, criterion) of a training with fairseq's own label-smoothed cross-entropy."""
    words = ("--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1")
    _, made, _, criterion = build(data_bin, *task, *words)
    return made, criterion


def stock_hypotheses(data_bin, checkpoint, *more) -> list[str]:
    """The subword strings that fairseq-generate prints, in the order of the subset. more: of its options."""
    words = [str(data_bin), "--user-dir", str(PACKAGE), "--path", str(checkpoint), *PAIR, *more]
    words += ["--required-batch-size-multiple", "1"]
    args = options.parse_args_and_arch(options.get_generation_parser(), words)
    out = io.StringIO()
    generate._main(convert_namespace_to_omegaconf(args), out)
    lines = [line.split("\t") for line in out.getvalue().splitlines() if line.startswith("H-")]
    return [text for _, text in sorted((int(number[2:]), text) for number, _, text in lines)]
