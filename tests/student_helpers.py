"""Students without data, built on a dictionary made up for the test, and checkpoints without a training."""

from types import SimpleNamespace

import torch
from conftest import PACKAGE
from fairseq import tasks, utils
from fairseq.data import Dictionary
from fairseq.trainer import Trainer

from fairseq_kd.models.building import parse

SMALL = (
    *("--encoder-embed-dim", "16", "--encoder-ffn-embed-dim", "24", "--encoder-attention-heads", "4"),
    *("--encoder-layers", "2", "--decoder-layers", "2", "--dropout", "0.0"),
)

OTHERS = ["--optimizer", "adam", "--lr", "0.01", "--cpu", "--user-dir", str(PACKAGE), "--criterion", "cross_entropy"]


def dictionary(types: int) -> Dictionary:
    made = Dictionary()
    for number in range(types - len(made)):
        made.add_symbol(f"w{number}")
    return made


def build_student(*options, types=20, seed=1, device="cpu", target_types=None):
    """The model of fairseq-train's options."""
    from fairseq.models import build_model

    cfg = parse(["no-data", *map(str, options)])
    source = dictionary(types)
    task = SimpleNamespace(
        source_dictionary=source, target_dictionary=source if target_types is None else dictionary(target_types)
    )
    utils.set_torch_seed(seed)
    with torch.device(device):
        return build_model(cfg.model, task)


def size(model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def some_input(types=20, seed=5):
    """Three sentences, padded on the sides where fairseq pads; prev_output_tokens begin with </s>."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.randint(4, types, (3, 7), generator=generator)
    fed = torch.randint(4, types, (3, 6), generator=generator)
    fed[:, 0] = 2
    source[1, :3] = 1  # padding on the left
    fed[1, 4:] = 1
    return {"src_tokens": source, "src_lengths": source.ne(1).sum(1), "prev_output_tokens": fed}


def write_model(path, data, *options):
    """A checkpoint of fairseq-train with random weights, also where they begin at 0 or 1."""
    cfg = parse([str(data), *options, *OTHERS])
    torch.manual_seed(3)
    task = tasks.setup_task(cfg.task)
    model = task.build_model(cfg.model)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape)
    trainer = Trainer(cfg, task, model, task.build_criterion(cfg.criterion))
    trainer.consolidate_optimizer()
    trainer.save_checkpoint(str(path), {"train_iterator": {"epoch": 1}, "val_loss": 1.0})
    return path
