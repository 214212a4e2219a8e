"""fairseq objects in this process, for tests that look at single losses and gradients."""

import torch
from conftest import PACKAGE, TINY_MODEL
from fairseq import options, tasks, utils
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.trainer import Trainer


def parse(data_bin, *arguments):
    """The configuration that fairseq-train makes from a command line."""
    words = [str(data_bin), *TINY_MODEL, "--user-dir", str(PACKAGE), *map(str, arguments)]
    return convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), words))


def build(data_bin, *arguments):
    """(cfg, task, model, criterion) as fairseq-train builds them, in its order and with its seed."""
    cfg = parse(data_bin, *arguments)
    utils.set_torch_seed(cfg.common.seed)
    task = tasks.setup_task(cfg.task)
    model = task.build_model(cfg.model)
    return cfg, task, model, task.build_criterion(cfg.criterion)


def batch(task, indices, subset="train"):
    """A fairseq batch of the given sentences."""
    if subset not in task.datasets:
        task.load_dataset(subset)
    dataset = task.dataset(subset)
    return dataset.collater([dataset[i] for i in indices])


def losses_of_training(data_bin, *arguments, updates: int) -> tuple[list[float], Trainer]:
    """Train; return the summed loss of each forward pass and the trainer."""
    cfg, task, model, criterion = build(data_bin, *arguments)
    losses = []
    criterion.register_forward_hook(lambda module, inputs, output: losses.append(output[0].item()))
    trainer = Trainer(cfg, task, model, criterion)
    iterator = trainer.get_train_iterator(1)
    while trainer.get_num_updates() < updates:
        for sample in iterator.next_epoch_itr(shuffle=True):
            trainer.train_step([sample])
            if trainer.get_num_updates() >= updates:
                break
    return losses, trainer


def with_variants(teacher, folder, noise: float) -> list:
    """The teacher and two checkpoints like it, with noise and twice the noise on their weights."""
    paths = [teacher]
    for number in (1, 2):
        paths.append(folder / f"variant{number}.pt")
        write_variant(teacher, paths[-1], noise=noise * number, updates=number)
    return paths


def write_variant(source, path, noise: float, updates: int):
    """Write a checkpoint like `source` with noise on its weights."""
    state = torch.load(source)
    generator = torch.Generator().manual_seed(updates)
    for name, value in state["model"].items():
        if value.is_floating_point() and value.numel() > 1:
            drawn = torch.randn(value.shape, generator=generator)
            state["model"][name] = value + noise * drawn
    for copy in ("decoder.embed_tokens.weight", "decoder.output_projection.weight"):
        state["model"][copy] = state["model"]["encoder.embed_tokens.weight"]
    state["optimizer_history"][-1]["num_updates"] = updates
    torch.save(state, path)


def write_checkpoint(path, data_bin, *arguments, criterion="cross_entropy"):
    """Write the checkpoint of a fairseq-train with these arguments before its first update."""
    cfg, task, model, criterion = build(data_bin, "--criterion", criterion, *arguments)
    trainer = Trainer(cfg, task, model, criterion)
    trainer.consolidate_optimizer()
    trainer.save_checkpoint(str(path), {"train_iterator": {"epoch": 1}})
