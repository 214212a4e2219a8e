"""Which options of fairseq-train a client takes from the server of a real federation: an allow-list.

They are those of the optimizer, the schedule of the learning rate, the loss, the size of batches and updates, the
precision, and the architecture. None of them names a file or a module. Registered options of this process decide which
they are, so they follow fairseq.
"""

import re
from argparse import Namespace
from dataclasses import fields

from fairseq_kd.core.errors import KDError
from fairseq_kd.models.registered import actions_of

OF_TRAINING = (
    *("arch", "optimizer", "lr-scheduler", "seed", "total-num-update", "precision", "criterion", "kd-weight"),
    *("max-tokens", "batch-size", "update-freq", "clip-norm", "sentence-avg", "skip-remainder-batch"),
    *("skip-invalid-size-inputs-valid-test", "max-source-positions", "max-target-positions", "truncate-source"),
    *("left-pad-source", "left-pad-target", "label-smoothing", "ignore-prefix-size", "report-accuracy"),
    *("bf16", "fp16", "amp", "memory-efficient-bf16", "memory-efficient-fp16", "fp16-init-scale", "fp16-scale-window"),
    *("fp16-scale-tolerance", "min-loss-scale", "threshold-loss-scale"),
)
NOT_OF_A_MODEL = ("path", "like", "file", "dir")  # in names of a model's options that name files
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
    from fairseq.optim import OPTIMIZER_DATACLASS_REGISTRY
    from fairseq.optim.lr_scheduler import LR_SCHEDULER_DATACLASS_REGISTRY

    found = set(OF_TRAINING)
    registered = (OPTIMIZER_DATACLASS_REGISTRY.get(options.get("optimizer")),
                  LR_SCHEDULER_DATACLASS_REGISTRY.get(options.get("lr-scheduler", "fixed")))  # fmt: skip
    for group in registered:
        names = [] if group is None else [field.name for field in fields(group)]
        found |= {name.replace("_", "-") for name in names if name[0] != "_"}
    for action in actions_of(Namespace(arch=options.get("arch"))).values():
        words = {word.lstrip("-") for word in action.option_strings}
        found |= {word for word in words if not any(part in word for part in NOT_OF_A_MODEL)}
    return found - {"max-update", "groups", "dynamic-groups"}
