"""A checkpoint on its way from rank 0 of a training to the other ranks.

Rank 0 alone reads the file, by the allow-list of types (`checkpoint_types`). fairseq then sends what was read by
torch.save and torch.load, and torch >= 2.6 holds the other ranks to the same list, on which two types are missing that
no file needs: the placeholders that fairseq sends in the place of tensors, and the omegaconf containers that fairseq
has made of the options. So the first are allowed while something is sent, and no longer; the second are sent as plain
containers. Nothing in a message can run code that could not be in a file.
"""

import functools

import torch
from fairseq.distributed import utils as distributed
from omegaconf import Container, OmegaConf


def plain(message):
    """`message` with plain containers for the omegaconf ones in the values of a dict; interpolations stay text."""
    if isinstance(message, Container):
        return OmegaConf.to_container(message, enum_to_str=True)
    if isinstance(message, dict):
        return {name: plain(value) if isinstance(value, Container) else value for name, value in message.items()}
    return message


def let_checkpoints_be_sent() -> None:
    """Make fairseq's `broadcast_object` send whatever a checkpoint may hold; can be called again.

    This replaces a function of fairseq by one that calls it: no option and no class of a plugin comes between.
    """
    send = distributed.broadcast_object
    if getattr(send, "of_fairseq_kd", False):
        return

    @functools.wraps(send)
    def broadcast_object(obj, src_rank, group, dist_device=None):
        with torch.serialization.safe_globals([distributed._TensorPlaceholder]):
            return send(plain(obj), src_rank, group, dist_device)

    broadcast_object.of_fairseq_kd = True
    distributed.broadcast_object = broadcast_object
