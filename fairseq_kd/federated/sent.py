"""Which options of fairseq-train a client takes from the server of a real federation: an allow-list.

They are those of the optimizer, the schedule of the learning rate, the loss, the size of batches and updates, the
precision, and the architecture. None of them names a file or a module. Registered options of this process decide which
they are, so they follow fairseq.
"""

import re
from argparse import ArgumentParser, Namespace
from dataclasses import fields

from fairseq_kd.core.errors import KDError
from fairseq_kd.models.registered import actions_of, family

OF_TRAINING = (
    *("arch", "optimizer", "lr-scheduler", "seed", "total-num-update", "precision"),
    *("max-tokens", "batch-size", "max-sentences", "update-freq", "clip-norm", "sentence-avg", "skip-remainder-batch"),
    *("skip-invalid-size-inputs-valid-test", "max-source-positions", "max-target-positions", "truncate-source"),
    *("left-pad-source", "left-pad-target", "label-smoothing", "ignore-prefix-size", "report-accuracy"),
    *("bf16", "fp16", "amp", "memory-efficient-bf16", "memory-efficient-fp16", "fp16-init-scale", "fp16-scale-window"),
    *("fp16-scale-tolerance", "min-loss-scale", "threshold-loss-scale", "validate-interval", "save-interval"),
    *("validate-interval-updates", "save-interval-updates", "keep-interval-updates", "keep-last-epochs"),
)
FAMILIES = ("transformer", "kd_student", "kd_adaptive", "lstm", "fconv", "lightconv")  # their options name no models
NOT_OF_A_MODEL = {"path", "like", "file", "dir", "from", "load", "pretrained"}  # words in names of options of files
VALUES = (bool, int, float, str)


def check_sent(options: dict) -> None:
    """Raises KDError for an option, or a value, that a client does not take. The package must be registered."""
    allowed = _allowed(options)
    for name, value in options.items():
        if name not in allowed:
            raise KDError(
                f"the server of a federation sends the option {name}, which a client does not take from a server: "
                "options that could name files, modules or devices of a client are not taken"
            )
        for one in value if isinstance(value, list) else [value]:
            if not isinstance(one, VALUES) or re.match(r"-+[A-Za-z]", str(one)):
                raise KDError(f"the server of a federation sends {name} with the value {one!r}, which no client takes")


def _allowed(options: dict) -> set[str]:
    model = Namespace(arch=options.get("arch"))
    if (name := family(model)) not in FAMILIES:
        raise KDError(
            f"the server of a federation sends the architecture {model.arch} ({name}): clients take those of "
            f"{', '.join(FAMILIES)}"
        )
    words = {word.lstrip("-") for action in actions_of(model).values() for word in action.option_strings}
    found = {word for word in words if not NOT_OF_A_MODEL & set(word.split("-"))}
    return {*OF_TRAINING, *found, *_of_optimizer(options.get("optimizer")),
            *_of_schedule(options.get("lr-scheduler", "fixed"))} - {"max-update"}  # fmt: skip


def _of_optimizer(name) -> set[str]:
    """Its options: those of a dataclass, or of a parser as older ones of fairseq have them."""
    from fairseq.optim import OPTIMIZER_DATACLASS_REGISTRY, OPTIMIZER_REGISTRY

    if name == "composite":  # its options hold those of others
        return set()
    if (group := OPTIMIZER_DATACLASS_REGISTRY.get(name)) is not None:
        return _fields(group)
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    if name in OPTIMIZER_REGISTRY:
        OPTIMIZER_REGISTRY[name].add_args(parser)
    return {word.lstrip("-") for action in parser._actions for word in action.option_strings} | {"lr"}


def _of_schedule(name) -> set[str]:
    from fairseq.optim.lr_scheduler import LR_SCHEDULER_DATACLASS_REGISTRY

    group = LR_SCHEDULER_DATACLASS_REGISTRY.get(name)
    return set() if group is None else _fields(group)


def _fields(group) -> set[str]:
    return {field.name.replace("_", "-") for field in fields(group) if field.name[0] != "_"}
