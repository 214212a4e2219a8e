"""The ladder of students: dimensions of each rung, from configs/students/*.yaml."""

import functools

import yaml

from fairseq_kd.resources import config_folder

RUNGS = ("3m", "5m", "9m", "17m", "37m", "66m", "146m")
KEYS = ("embed_dim", "ffn_embed_dim", "attention_heads", "encoder_layers", "decoder_layers")


@functools.cache
def dimensions(rung: str) -> dict[str, int]:
    """The dimensions of a rung such as "3m": KEYS -> number; encoder and decoder have the same widths."""
    file = config_folder() / "students" / f"{rung}.yaml"
    found = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert tuple(found) == KEYS, f"{file} must give {KEYS} in this order, it gives {tuple(found)}"
    return found


def set_default_dimensions(args, rung: str | None) -> None:
    """Give `args` the dimensions that it does not have yet; None: only what the decoder takes over from the encoder.

    A decoder's width that is not given is the encoder's, also where that was given on the command line.
    """
    found = {} if rung is None else dimensions(rung)
    for name in KEYS:
        if name.endswith("_layers"):
            _set_default(args, name, found.get(name))
            continue
        _set_default(args, f"encoder_{name}", found.get(name))
        _set_default(args, f"decoder_{name}", getattr(args, f"encoder_{name}", None))


def _set_default(args, name: str, value) -> None:
    if value is not None and getattr(args, name, None) is None:
        setattr(args, name, value)
