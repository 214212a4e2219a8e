"""Weights of a fairseq checkpoint as NumPy arrays by name, as Flower sends them, and back.

Floating-point tensors are sent in float32. A tensor that a model uses under several names, such as tied embeddings, is
sent once. Other tensors (integer buffers) are not sent.
"""

import torch

from fairseq_kd.core.errors import KDError
from fairseq_kd.federated.arrays import Arrays


def shared_names(model: dict) -> dict[str, str]:
    """Name -> the earlier name of the same tensor, for the tensors of a state dict that have several names."""
    first, found = {}, {}
    for name, value in model.items():
        place = (value.data_ptr(), tuple(value.shape), value.dtype)
        if value.numel() and value.is_floating_point() and first.setdefault(place, name) != name:
            found[name] = first[place]
    return found


def to_arrays(model: dict, shared: dict[str, str]) -> Arrays:
    """The tensors of a state dict that are sent, in float32, in the order of the state dict."""
    kept = {name: value for name, value in model.items() if name not in shared and value.is_floating_point()}
    return {name: value.detach().float().cpu().numpy() for name, value in kept.items()}


def with_arrays(model: dict, arrays: Arrays, shared: dict[str, str]) -> dict:
    """A state dict like `model`, whose tensors have the values of the arrays. The types stay those of `model`."""
    new = dict(model)
    for name, value in arrays.items():
        new[name] = torch.tensor(value).to(model[name].dtype)
    return new | {name: new[earlier] for name, earlier in shared.items()}


def check_start(path, model: dict, built: dict) -> None:
    """Raises KDError unless the state dict `model` of the checkpoint `path` has the names and shapes of `built`."""
    for name in sorted(model.keys() ^ built.keys()):
        owner, other = ("the checkpoint", "the model of the spec")[:: 1 if name in model else -1]
        raise KDError(f"start: {path} is another model than that of the spec: {owner} has a {name}, {other} does not")
    for name, value in model.items():
        if value.shape != built[name].shape:
            raise KDError(
                f"start: {path} is another model than that of the spec: {name} has the shape {tuple(value.shape)}, and "
                f"the spec gives {tuple(built[name].shape)}"
            )
