"""Which tasks and models this package works with. Which models have one matrix between features and logits.

Which models give decoder features that one matrix turns into logits: what the fused loss and a lean teacher need.

Which tasks and models this package works with: decided here, by what they are.

A task        has a configuration (not the argparse.Namespace of fairseq's older tasks) with data and two languages, and
              fairseq's own beam search
A model       is an encoder-decoder with an incremental decoder that gives, for a source and the tokens so far, a
              distribution over the next token

These are fairseq's translation and the tasks derived from it, its transformers, LSTMs and convolutional models, and
those of a --user-dir that are alike. Multilingual and mBART-like tasks are not: their data, languages and first tokens
are found elsewhere. Non-autoregressive models are not: they have no distribution over a next token.
"""

import inspect
from argparse import Namespace

import torch
from fairseq.models import FairseqDecoder
from fairseq.models.transformer import TransformerDecoderBase

from fairseq_kd.core.errors import KDError


def unwrapped(model):
    """The model inside the wrappers that fairseq puts around it for several processes."""
    while isinstance(getattr(model, "module", None), torch.nn.Module):
        model = model.module
    return model


def output_projection(model) -> torch.Tensor | None:
    """The matrix (V, d) with logits = features @ matrix.T, or None when the model computes them in another way.

    Then `model(..., features_only=True)[0]` are the features (B, T, d). None also where a wrapper for several processes
    does not let a parameter be used outside of the model's forward pass.
    """
    weight = _weight(unwrapped(model))
    while weight is not None and isinstance(inner := getattr(model, "module", None), torch.nn.Module):
        if "FullySharded" in type(model).__name__:
            return None
        if getattr(model, "find_unused_parameters", False) and not _is_tied(unwrapped(model).decoder, weight):
            return None  # DDP would call it unused, and then be surprised by its gradient
        model = inner
    return weight


def _is_tied(decoder, weight) -> bool:
    return getattr(getattr(decoder, "embed_tokens", None), "weight", None) is weight


def _weight(model) -> torch.Tensor | None:
    decoder = getattr(model, "decoder", None)
    if not isinstance(decoder, TransformerDecoderBase) or getattr(decoder, "adaptive_softmax", None) is not None:
        return None
    stock = (
        type(decoder).output_layer is TransformerDecoderBase.output_layer
        and type(decoder).get_normalized_probs_scriptable is FairseqDecoder.get_normalized_probs_scriptable
        and "features_only" in inspect.signature(type(model).forward).parameters
    )
    layer = decoder.output_projection
    return layer.weight if stock and isinstance(layer, torch.nn.Linear) and layer.bias is None else None


NEEDED = ("data", "source_lang", "target_lang")
INPUTS = ("src_tokens", "src_lengths", "prev_output_tokens")  # of a model


def check_configuration(path, cfg) -> None:
    """Look at the configuration of a checkpoint before its task and its model are built.

    Raises KDError that names the task or the architecture, when it is not supported or not registered.
    """
    from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_REGISTRY
    from fairseq.tasks import TASK_REGISTRY

    task, model = (_name(part, option) for part, option in ((cfg.task, "task"), (cfg.model, "arch")))
    if task not in TASK_REGISTRY:
        raise KDError(_unregistered(path, "task", task))
    _check_task(f"{path} was trained by --task {task}", cfg.task, TASK_REGISTRY[task])
    if model not in ARCH_MODEL_REGISTRY and model not in MODEL_REGISTRY:
        raise KDError(_unregistered(path, "architecture", model))


def check_training_task(task, criterion: str) -> None:
    """Look at the task of a running fairseq-train. Raises KDError that names it when it is not supported."""
    from fairseq.tasks import TASK_REGISTRY

    kind = type(task)
    name = next((name for name, registered in TASK_REGISTRY.items() if registered is kind), kind.__name__)
    _check_task(f"--criterion {criterion} with --task {name}", task.cfg or getattr(task, "args", None), kind)


def check_model(model, who: str) -> None:
    """Raises KDError unless `model` is supported. who: of the message, such as a path or "the student"."""
    from fairseq.models import FairseqEncoderDecoderModel, FairseqIncrementalDecoder
    from fairseq.models.nat import FairseqNATModel

    model = unwrapped(model)
    kind = type(model)
    if not isinstance(model, FairseqEncoderDecoderModel) or not isinstance(model.decoder, FairseqIncrementalDecoder):
        raise KDError(
            f"{who} is a {kind.__name__}; it must be an encoder-decoder translation model with an incremental decoder, "
            "such as fairseq's transformer"
        )
    if isinstance(model, FairseqNATModel) or not _takes(kind, INPUTS):
        raise KDError(
            f"{who} is a {kind.__name__}, which is non-autoregressive: it has no distribution over the next token, "
            "given those before it, that could be learnt or compared. Give an autoregressive model, such as fairseq's "
            "transformer; a non-autoregressive student learns from the targets that fairseq-kd decode makes"
        )


def _takes(kind, inputs) -> bool:
    """Whether the model can be called with these inputs and no others (non-autoregressive ones want the target too)."""
    try:
        inspect.signature(kind.forward).bind(None, **dict.fromkeys(inputs))
    except TypeError:
        return False
    return True


def _check_task(found: str, cfg, kind) -> None:
    from fairseq.tasks.translation_lev import TranslationLevenshteinTask

    if issubclass(kind, TranslationLevenshteinTask):
        raise KDError(
            f"{found}, which is for non-autoregressive models: they have no distribution over the next token, given "
            "those before it. fairseq_kd works with autoregressive models (--task translation)"
        )
    # fairseq goes by `task` before `_name`, and a task without a dataclass takes options that nobody has looked at
    other = getattr(cfg, "task", None)
    if isinstance(cfg, Namespace) or other or not _has_dataclass(kind) or any(not hasattr(cfg, n) for n in NEEDED):
        raise KDError(
            f"{found}, which fairseq_kd does not support: its data and languages are not found as those of --task "
            "translation are. Train a bilingual model with --task translation, or a task derived from it that has a "
            "configuration of its own"
        )


def _has_dataclass(kind) -> bool:
    from fairseq.tasks import TASK_DATACLASS_REGISTRY, TASK_REGISTRY

    return any(name in TASK_DATACLASS_REGISTRY for name, registered in TASK_REGISTRY.items() if registered is kind)


def _name(part, option: str) -> str:
    """The name under which a task or an architecture is registered."""
    return str(getattr(part, option, None) or getattr(part, "_name", None))


def _unregistered(path, what: str, name: str) -> str:
    return (
        f"{path} is of the {what} {name}, which neither fairseq nor fairseq_kd registers: it comes from another folder "
        "of code. Give that folder with --user-dir, which runs its code (fairseq-train takes one folder: let its "
        "__init__.py import fairseq_kd)"
    )
