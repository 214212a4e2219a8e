"""The options of the peers of a mutual training: which peers they name, and the models of these peers."""

import argparse
import os
from argparse import Namespace
from dataclasses import dataclass

import torch
from fairseq.models import ARCH_MODEL_REGISTRY, FairseqEncoderDecoderModel
from fairseq.models import build_model as build_by_fairseq
from omegaconf import OmegaConf
from torch import nn

from fairseq_kd.core.errors import KDError
from fairseq_kd.core.yaml_file import nearest
from fairseq_kd.inference.checkpoint import read_checkpoint
from fairseq_kd.inference.dictionaries import check_same_dictionary
from fairseq_kd.inference.frozen import build_model, configure_own_task
from fairseq_kd.inference.supported import COMPOSITE, check_autoregressive, check_model
from fairseq_kd.models.student import KDStudentModel

OPTIONS = {
    "peers": "two or more checkpoints of fairseq-train joined by ':', which continue as peers",
    "peer_archs": "architectures joined by ':', such as kd_student_3m:kd_student_5m; each is a new peer",
    "peer_like": "checkpoints of students (kd_student) joined by ':'; each is a new peer with the same dimensions, "
    "after those of --peer-archs",
    "peer_data": "with --peers: folder with their dictionaries, if these were moved after the training",
    "trust_checkpoint": "with --peers: load these of the checkpoints, joined by ':', even if they hold code",
}
PATHS = tuple(name for name in OPTIONS if name != "peer_archs")
OF_THE_COMPOSITE = (*OPTIONS, "arch", "_name", "peer_options")
LIKE = "kd_student"
# of a student, and not of all peers of a training
NOT_OFFERED = ("help", "like", "encoder_layers_to_keep", "decoder_layers_to_keep")
# options of the task too, which is how a peer gets them
OF_THE_TASK = ("max_source_positions", "max_target_positions")


@dataclass
class Peer:
    """A peer: its name for messages, the complete options of its model, and the model."""

    name: str
    options: dict
    model: nn.Module


def offered() -> list[argparse.Action]:
    """The options of fairseq's transformer and of students, for all peers from architectures."""
    return [action for name, action in _actions(KDStudentModel).items() if name not in NOT_OFFERED + OF_THE_TASK]


def _actions(kind) -> dict[str, argparse.Action]:
    """The options of a class of models, by name."""
    parser = argparse.ArgumentParser(argument_default=argparse.SUPPRESS, allow_abbrev=False)
    kind.add_args(parser)
    return {action.dest: action for action in parser._actions}


def listed_peers(args) -> list:
    """The paths of --peers, or a pair (architecture, student whose dimensions it gets or None) per peer.

    Raises KDError unless the options name two or more peers, from one kind of source.
    """
    paths, archs, likes = (_parts(args, name) for name in ("peers", "peer_archs", "peer_like"))
    given = [name for name, values in (("peer-archs", archs), ("peer-like", likes)) if values]
    if paths and given:
        raise KDError(
            f"--peers and --{given[0]} exclude each other: the peers are checkpoints that continue, or new models; "
            "give one of the two"
        )
    if not paths and not given:
        raise KDError(f"--arch {COMPOSITE} needs its peers: give --peers A.pt:B.pt, or --peer-archs and --peer-like")
    names = paths or [(arch, None) for arch in archs] + [(LIKE, path) for path in likes]
    if len(names) < 2:
        options = " and ".join(f"--{name}" for name in (["peers"] if paths else given))
        raise KDError(f"{options} names one peer, which has nobody to learn from: give two or more, joined by ':'")
    _check_options(args, paths, [arch for arch, _ in names] if not paths else [])
    return names


def _parts(args, name: str) -> list[str]:
    value = getattr(args, name)
    parts = [] if value is None else str(value).split(os.pathsep)
    if "" in parts:
        raise KDError(f"--{name.replace('_', '-')} {value!r} has an empty name: give names joined by ':'")
    return parts


def _check_options(args, paths: list[str], archs: list[str]) -> None:
    """Raises KDError for an option that would have no effect, and for an architecture that cannot be a peer."""
    common = [action.dest for action in offered() if _is_given(args, action.dest)]
    if paths:
        if common:
            raise KDError(
                f"--{common[0].replace('_', '-')} has no effect with --peers: each peer keeps the options of its "
                "checkpoint"
            )
        if unknown := sorted(set(_parts(args, "trust_checkpoint")) - set(paths)):
            raise KDError(
                f"--trust-checkpoint {unknown[0]} is none of the peers {args.peers}; name files that you trust"
            )
        return
    for name in ("peer_data", "trust_checkpoint"):
        if getattr(args, name) is not None:
            raise KDError(f"--{name.replace('_', '-')} has no effect without --peers: no checkpoint continues")
    known = set()
    for arch in archs:
        check_architecture(arch)
        known |= _actions(ARCH_MODEL_REGISTRY[arch]).keys()
    if unused := [name for name in common if name not in known]:
        raise KDError(f"--{unused[0].replace('_', '-')} has no effect: no peer has an architecture with this option")


def _is_given(args, name: str) -> bool:
    value = getattr(args, name, None)
    return value is not None and value is not False  # 0 is a value


def check_architecture(arch: str) -> None:
    """Raises KDError for an architecture that is unknown or cannot be a peer."""
    who = f"--peer-archs {arch}"
    if arch not in ARCH_MODEL_REGISTRY:
        raise KDError(f"{who}: unknown; the nearest valid one is {nearest(arch, list(ARCH_MODEL_REGISTRY))!r}")
    kind = ARCH_MODEL_REGISTRY[arch]
    if arch == COMPOSITE or not issubclass(kind, FairseqEncoderDecoderModel):
        raise KDError(f"{who} is a {kind.__name__}; a peer must be an encoder-decoder, such as fairseq's transformer")
    _refuse_gates(who, arch)
    check_autoregressive(kind, who)


def _refuse_gates(who: str, arch: str) -> None:
    if arch.startswith("kd_adaptive"):
        raise KDError(
            f"{who} is a {arch}, whose gates learn only in a training by itself: compact it first (fairseq-kd "
            "compact), or give a kd_student"
        )


def build_peer(options: Namespace, task, number: int) -> nn.Module:
    """The model of a peer with new weights. number: 0 for the first peer.

    options: of a fairseq-train with this architecture; fairseq adds the defaults of the architecture.
    Peer 0 takes the random numbers that follow, like a model by itself; the others take those of other seeds.
    """
    if number == 0:
        model = build_by_fairseq(options, task)
    else:
        seed = torch.initial_seed()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed + number)
            model = build_by_fairseq(options, task)
    check_model(model, f"peer {number + 1}")
    return model


def from_checkpoints(paths: list[str], args, task) -> list[Peer]:
    """The peers in these checkpoints, with their weights.

    Raises KDError when a file cannot be read or has a model that cannot be a peer, and when its dictionaries differ
    from those of the task.
    """
    trusted, peers = _parts(args, "trust_checkpoint"), []
    for path in paths:
        trust = path in trusted
        state = read_checkpoint(path, trust=trust)
        languages = (task.cfg.source_lang, task.cfg.target_lang)
        configure_own_task(path, state, args.peer_data, languages, data_option="--peer-data")
        options = _plain(state["cfg"].model)
        _refuse_gates(path, str(options.get("arch")))
        model, own = build_model(path, state, trust)
        names = (path, f"the data {task.cfg.data}")
        check_same_dictionary(own.source_dictionary, task.source_dictionary, "source", names)
        check_same_dictionary(own.target_dictionary, task.target_dictionary, "target", names)
        peers.append(Peer(path, options, model))
    return peers


def _plain(options) -> dict:
    """The options of a model as a dict of plain values."""
    return dict(vars(options)) if isinstance(options, Namespace) else OmegaConf.to_container(options, enum_to_str=True)
