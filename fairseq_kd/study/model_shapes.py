"""Whether two models have weights of the same shape and meaning, as far as their options show it."""

from fairseq_kd.core.errors import KDError
from fairseq_kd.models.registered import actions_of, family

# options of a model that change neither the shape nor the meaning of its weights
NOT_SHAPE = ("drop", "path", "quant", "checkpoint", "offload", "like", "export", "max_source_positions",
             "max_target_positions", "min_params_to_wrap", "tpu")  # fmt: skip
STUDENT = "kd_student"
# options of one training: files, and what the task says
NOT_COPIED = ("like", "encoder_embed_path", "decoder_embed_path", "max_source_positions", "max_target_positions")


def is_student(model) -> bool:
    """Whether `--like` can copy the dimensions of a model."""
    return family(model) == STUDENT


def difference(one, other) -> str | None:
    """The first option, by name, in which two models differ in shape or meaning; "arch" for other classes; else None.

    Both: options of a model with the defaults of its architecture.
    """
    if family(one) != family(other):
        return "arch"
    return next((name for name in option_names(one) if _value(one, name) != _value(other, name)), None)


def option_names(model) -> list[str]:
    """The names of the options of a model's class that can change the shape or the meaning of its weights."""
    return [name for name in sorted(actions_of(model)) if not any(part in name for part in NOT_SHAPE)]


def _value(model, name: str):
    """The value of an option; an option that is not given and a flag that is false are the same."""
    return getattr(model, name, None) or None


def training_options(model) -> dict:
    """The options with which fairseq-train builds a model of the same architecture and dropout: name -> value.

    model: the options of a checkpoint of fairseq-train. Raises KDError for a class that is not registered, and for
    options in groups, as fairseq-hydra-train writes them.
    """
    actions = actions_of(model)
    if not actions or not any(hasattr(model, name) for name in actions):
        raise KDError(f"the options of its model ({family(model)}) are not those of fairseq-train, so a student cannot "
                      "get its architecture: give arch and its options in the section student")  # fmt: skip
    found = {"arch": str(model.arch)}
    for name, action in actions.items():
        value = getattr(model, name, None)
        if value is None or name in NOT_COPIED or not isinstance(value, str | int | float):
            continue
        is_flag = action.nargs == 0
        if not is_flag or value:
            found[action.option_strings[-1].lstrip("-")] = True if is_flag else str(value) if value is True else value
    return found
