"""Which tasks and models this package supports, and which models have one matrix between features and logits.

A supported task      has a configuration (not the argparse.Namespace of fairseq's older tasks) with data and two
                      languages, and fairseq's own beam search; or it is one of the two tasks with language tokens
                      (`multilingual`), where the command can use them
A supported model     is an encoder-decoder whose incremental decoder gives a distribution over the next token, given a
                      source and the tokens so far

Supported are fairseq's translation task and tasks derived from it; fairseq's transformers, LSTMs and convolutional
models; and similar tasks and models of a --user-dir. Non-autoregressive models are not supported, because they have no
distribution over a next token.

The fused loss, and teachers that save memory, need models in which one matrix turns decoder features into logits.
"""

import inspect
from argparse import Namespace

import torch
from fairseq.models import FairseqDecoder
from fairseq.models.transformer import TransformerDecoderBase

from fairseq_kd.core.errors import KDError
from fairseq_kd.inference.multilingual import multilingual_task

COMPOSITE = "kd_mutual"  # the architecture of several models in one checkpoint, see `fairseq_kd.models.peers`


def unwrapped(model):
    """The model inside the wrappers that fairseq puts around it for several processes."""
    return _from_outermost(model)[-1]


def is_fully_sharded(model) -> bool:
    """Whether a wrapper shards the parameters, so that they can only be used inside the model's forward pass."""
    return any("FullySharded" in type(wrapper).__name__ for wrapper in _from_outermost(model)[:-1])


def _from_outermost(model) -> list:
    """The wrappers around the model for several processes, from the outermost, and then the model itself."""
    found = [model]
    while isinstance(inner := getattr(found[-1], "module", None), torch.nn.Module):
        found.append(inner)
    return found


def output_projection(model, part=None) -> torch.Tensor | None:
    """The matrix (V, d) with logits = features @ matrix.T, or None when the model computes logits in another way.

    With a matrix, `model(..., features_only=True)[0]` are the features (B, T, d). None also where a wrapper for several
    processes does not allow using a parameter outside of the model's forward pass.
    part: a model that `model` contains, such as a peer; None: `model` itself.
    """
    *wrappers, inner = _from_outermost(model)
    inner = inner if part is None else part
    weight = _weight(inner)
    if weight is None or is_fully_sharded(model):
        return None
    finds_unused = any(getattr(wrapper, "find_unused_parameters", False) for wrapper in wrappers)
    if finds_unused and not _is_tied(inner.decoder, weight):
        return None  # DDP would mark the matrix as unused and then fail on its gradient
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
INPUTS = ("src_tokens", "src_lengths", "prev_output_tokens")  # the inputs of a supported model


def check_configuration(path, cfg, language_tokens: bool = False) -> None:
    """Check the configuration of a checkpoint before its task and its model are built.

    language_tokens: whether the tasks with language tokens are supported.
    Raises KDError that names a task or an architecture which is not supported or not registered.
    """
    from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_REGISTRY
    from fairseq.tasks import TASK_REGISTRY

    task, model = (_name(part, option) for part, option in ((cfg.task, "task"), (cfg.model, "arch")))
    if task not in TASK_REGISTRY:
        raise KDError(_unregistered(path, "task", task))
    _check_task(f"{path} was trained by --task {task}", cfg.task, TASK_REGISTRY[task], language_tokens)
    if model not in ARCH_MODEL_REGISTRY and model not in MODEL_REGISTRY:
        raise KDError(_unregistered(path, "architecture", model))
    if model == COMPOSITE:
        raise KDError(
            f"{path} holds several models (--arch {COMPOSITE}), and one is needed here: fairseq-kd split {path} --out "
            "DIR writes one checkpoint per model"
        )


def check_training_task(task, criterion: str, language_tokens: bool = False) -> None:
    """Check the task of a running fairseq-train. language_tokens: see `check_configuration`.

    Raises KDError that names a task which is not supported.
    """
    from fairseq.tasks import TASK_REGISTRY

    kind = type(task)
    name = next((name for name, registered in TASK_REGISTRY.items() if registered is kind), kind.__name__)
    cfg = task.cfg or getattr(task, "args", None)
    _check_task(f"--criterion {criterion} with --task {name}", cfg, kind, language_tokens)


def check_model(model, who: str) -> None:
    """Raises KDError unless `model` is supported. who: its name in the message, such as a path or "the student"."""
    from fairseq.models import FairseqEncoderDecoderModel, FairseqIncrementalDecoder

    model = unwrapped(model)
    kind = type(model)
    if not isinstance(model, FairseqEncoderDecoderModel) or not isinstance(model.decoder, FairseqIncrementalDecoder):
        raise KDError(
            f"{who} is a {kind.__name__}; it must be an encoder-decoder translation model with an incremental decoder, "
            "such as fairseq's transformer"
        )
    check_autoregressive(kind, who)


def check_autoregressive(kind, who: str) -> None:
    """Raises KDError for a class of models that is non-autoregressive. who: see `check_model`."""
    from fairseq.models.nat import FairseqNATModel

    if issubclass(kind, FairseqNATModel) or not _takes(kind, INPUTS):
        raise KDError(
            f"{who} is a {kind.__name__}, which is non-autoregressive: it has no distribution over the next token, "
            "given the tokens before it, that could be learnt or compared. Give an autoregressive model, such as "
            "fairseq's transformer; a non-autoregressive student can learn from the targets of fairseq-kd decode"
        )


def _takes(kind, inputs) -> bool:
    """Whether the model can be called with only these inputs (a non-autoregressive model also needs the target)."""
    try:
        inspect.signature(kind.forward).bind(None, **dict.fromkeys(inputs))
    except TypeError:
        return False
    return True


def _check_task(found: str, cfg, kind, language_tokens: bool) -> None:
    from fairseq.tasks import TASK_REGISTRY
    from fairseq.tasks.translation_lev import TranslationLevenshteinTask

    if (name := multilingual_task(cfg)) is not None and kind is TASK_REGISTRY[name]:
        if language_tokens:
            return
        raise KDError(
            f"{found}, which adds language tokens: only the commands cache, verify-cache, decode, evaluate, "
            "select-teacher, prune-vocabulary and init-student, and --criterion kd_word work with it. To go on, train "
            "a model of --task translation on the output of fairseq-kd decode"
        )

    if issubclass(kind, TranslationLevenshteinTask):
        raise KDError(
            f"{found}, which is for non-autoregressive models: they have no distribution over the next token, given "
            "the tokens before it. fairseq_kd works with autoregressive models (--task translation)"
        )
    # fairseq reads `task` before `_name`, and a task without a dataclass takes options that were not checked
    other = getattr(cfg, "task", None)
    if isinstance(cfg, Namespace) or other or not _has_dataclass(kind) or any(not hasattr(cfg, n) for n in NEEDED):
        raise KDError(
            f"{found}, which fairseq_kd does not support: it does not give its data and languages as --task "
            "translation does. Train a bilingual model with --task translation, or with a task derived from it that "
            "has its own configuration"
        )


def _has_dataclass(kind) -> bool:
    from fairseq.tasks import TASK_DATACLASS_REGISTRY, TASK_REGISTRY

    return any(name in TASK_DATACLASS_REGISTRY for name, registered in TASK_REGISTRY.items() if registered is kind)


def _name(part, option: str) -> str:
    """The name under which a task or an architecture is registered."""
    return str(getattr(part, option, None) or getattr(part, "_name", None))


def _unregistered(path, what: str, name: str) -> str:
    return (
        f"{path} has the {what} {name}, which neither fairseq nor fairseq_kd registers: it comes from another folder "
        "of code. Give that folder with --user-dir, which runs its code (fairseq-train takes one folder: let its "
        "__init__.py import fairseq_kd)"
    )
