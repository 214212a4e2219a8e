"""The trainings of a federated run as command lines of fairseq-train, and checkpoints before the first update."""

from pathlib import Path

import torch

from fairseq_kd.artifacts.writing import file_in_progress
from fairseq_kd.models.building import parse
from fairseq_kd.training.arguments import CROSS_ENTROPY, to_arguments, training_arguments

COSINE = "lr-period-updates"


def training_options(values: dict) -> dict:
    """The options of fairseq-train that the server sends to its clients. values: of a spec.

    The schedule of the learning rate is that of one training of rounds · updates updates.
    """
    options = values["common"] | values["student"] | {"seed": values["seed"]}
    total = values["rounds"] * values["updates"]
    if options.get("lr-scheduler") == "polynomial_decay":
        options["total-num-update"] = total
    if options.get("lr-scheduler") == "cosine":
        options.setdefault(COSINE, total - int(options.get("warmup-updates", 0)))
    return options


def client_arguments(data, languages, options: dict, values: dict, number: int, *, cpu: bool, start=None) -> list[str]:
    """The command line of a client for round `number` (from 1), without --save-dir. values: with `updates`.

    start: the checkpoint with the weights of the round and the state of the client's optimizer.
    """
    options = CROSS_ENTROPY | options | {"max-update": number * values["updates"], "disable-validation": True}
    return [*training_arguments(data, *languages, options, cpu=cpu), *_restored(start)]


def _restored(start) -> list[str]:
    return [] if start is None else ["--restore-file", str(start)]


def server_arguments(languages, values: dict, teachers: list, number: int, *, cpu: bool, start=None) -> list[str]:
    """The command line of the distillation on the server in round `number`: kd_word with the clients' models.

    start: the aggregated model.
    """
    given = dict(values["server-kd"])
    transfer, updates = given.pop("transfer"), given.pop("updates")
    options = values["common"] | values["student"] | given | {"criterion": "kd_word", "max-update": updates}
    options |= {"teacher": ":".join(map(str, teachers)), "seed": values["seed"] + number, "disable-validation": True}
    words = training_arguments(Path(transfer).absolute(), *languages, options, cpu=cpu)
    return [*words, *([] if start is None else to_arguments({"finetune-from-model": start}))]


def write_first_checkpoint(path, arguments: list[str], updates: int = 0, weights=None) -> None:
    """Write the checkpoint of a training before its first update: whole or not at all.

    updates: the number of updates that the schedules count as done. weights(model): a state dict in place of the
    initial one, from the latter. The package must be registered with fairseq.
    """
    from fairseq import tasks, utils
    from fairseq.trainer import Trainer

    cfg = parse(list(map(str, arguments)))
    utils.set_torch_seed(cfg.common.seed)  # fairseq-train builds its model after this call
    task = tasks.setup_task(cfg.task)
    model = task.build_model(cfg.model)
    if weights is not None:
        model.load_state_dict(weights(model.state_dict()))
    trainer = Trainer(cfg, task, model, task.build_criterion(cfg.criterion))
    trainer.set_num_updates(updates)
    trainer.consolidate_optimizer()
    state = {"version": 2, "epoch": 1, "iterations_in_epoch": 0, "shuffle": True}
    with file_in_progress(Path(path)) as temporary:
        trainer.save_checkpoint(str(temporary), {"train_iterator": state, "val_loss": None})


def continued(state: dict, model: dict, updates: int, keep: bool) -> dict:
    """The last checkpoint of a client with the weights of a new round.

    state: of `read_checkpoint`. updates: the number that the schedules count as done. keep: whether the state of the
    optimizer is kept; without it each parameter begins with an empty state.
    """
    from omegaconf import OmegaConf

    optimizer = state["last_optimizer_state"]
    if not keep:
        optimizer = optimizer | {"state": {}}
    *history, last = state["optimizer_history"]
    return state | {
        "model": model,
        "cfg": OmegaConf.to_container(state["cfg"], resolve=False, enum_to_str=True),
        "optimizer_history": [*history, last | {"num_updates": updates}],
        "last_optimizer_state": optimizer,
    }


def write_checkpoint(path, state: dict) -> None:
    """Write a checkpoint: whole or not at all."""
    with file_in_progress(Path(path)) as temporary:
        torch.save(state, temporary)
