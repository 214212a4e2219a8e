"""The peers of the method `mutual`: how many students learn from each other, and which architectures they have.

Peer 1 is the student of the cell: its architecture and seed, and its scores are the scores of the cell.
"""

import argparse
import re

from fairseq_kd.core.errors import KDError
from fairseq_kd.inference.supported import COMPOSITE
from fairseq_kd.study.parts import PARTS

FORM = (
    "a number of students from 2, parts (the local models of all parts), or the architectures of the other students, "
    "such as kd_student_5m"
)
SHAPE = re.compile("(encoder|decoder)-(layers|embed-dim|ffn-embed-dim|attention-heads)")
CHOSEN_BY = {"best-checkpoint-metric": "nll_loss_peer1"}  # as kd_mutual logs it: checkpoint_best.pt is that of peer 1


def check_peers(path, value) -> None:
    """Raises KDError unless `value` names the students of a mutual training. path: of the spec."""
    if value == PARTS:
        return
    number = type(value) is int and value >= 2
    names = isinstance(value, str) and all(value.split(":"))
    if not number and not names:
        raise KDError(f"{path}: the factor peers has the value {value!r}; a value must be {FORM}")


def architectures(path, value, options: dict) -> list[str]:
    """The architecture of each peer. value: of the setting `peers`. options: of the student's training.

    Raises KDError for a student without an architecture, and for options of a shape that other architectures would get.
    """
    if "arch" not in options:
        raise KDError(f"{path}: mutual needs the architecture of the student: give arch in student or common")
    own = str(options["arch"])
    if isinstance(value, int):
        return [own] * value
    others = value.split(":")
    shape = [name for name in options if SHAPE.fullmatch(name)]
    if shape and any(other != own for other in others):
        raise KDError(f"{path}: {shape[0]} of the student would also be the shape of the peers {value}: give the "
                      "student an architecture that has its shape, such as kd_student_3m")  # fmt: skip
    return [own, *others]


def of_first_peer(words: list[str]) -> str | list[str]:
    """The model of peer 1: the word of a checkpoint, or the words of a training of that model alone.

    words: of a training, as `to_arguments` writes them. Those of other architectures are returned as they are.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("--arch", "--peers", "--peer-archs", "--peer-like"):
        parser.add_argument(name)
    given, others = parser.parse_known_args(words)
    if given.arch != COMPOSITE:
        return words
    if given.peers:
        return given.peers.split(":")[0]
    if given.peer_archs:
        return [*others, "--arch", given.peer_archs.split(":")[0]]
    return [*others, "--arch", "kd_student", "--like", given.peer_like.split(":")[0]]
