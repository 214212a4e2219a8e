"""What makes the stages of each kind: the number of our format, and the libraries whose versions can change a result.

`key` names a stage by its request and by this.
"""

import contextlib
import itertools
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version


@dataclass(frozen=True)
class Maker:
    """The code and the libraries that make the stages of one kind.

    format: raised when our code gives other results; tests/unit/test_golden.py says when.
    libraries: the libraries whose versions can change a result.
    """

    format: int
    libraries: tuple[str, ...]


MAKERS = {
    "prepare": Maker(1, ("sentencepiece", "subword-nmt", "fairseq")),
    "partition": Maker(1, ("numpy", "scikit-learn", "fairseq")),
    "noise": Maker(1, ("numpy", "sentencepiece", "fairseq")),
    "teacher": Maker(2, ("torch", "fairseq")),  # 2: CROSS_ENTROPY
    "select": Maker(1, ("torch", "fairseq", "sentencepiece", "sacrebleu")),
    "average": Maker(1, ("torch", "fairseq")),
    "init": Maker(1, ("torch", "fairseq")),
    "decode": Maker(1, ("torch", "fairseq", "ctranslate2", "sentencepiece", "sacrebleu")),
    "mix": Maker(1, ("fairseq",)),
    "cache": Maker(1, ("torch", "fairseq")),
    "student": Maker(1, ("torch", "fairseq")),
    "federated": Maker(1, ("torch", "fairseq", "flwr", "sentencepiece", "sacrebleu")),
    "split": Maker(1, ("torch", "fairseq")),
    "compact": Maker(1, ("torch", "fairseq")),
    "evaluate": Maker(1, ("torch", "fairseq", "sentencepiece", "sacrebleu")),
    "compare": Maker(1, ("sacrebleu",)),
}
KINDS = tuple(MAKERS)
TRAININGS = ("teacher", "student")
BEFORE = ("--criterion", "label_smoothed_cross_entropy")  # CROSS_ENTROPY replaced these words
BY_CTRANSLATE2 = ("--backend", "ctranslate2")  # words of an evaluation whose result depends on that library too
NOT_LISTED = ("scikit-learn", "flwr")  # libraries of one kind, which `library_versions` does not list
ON_GPU = ("teacher", "select", "decode", "cache", "student", "federated", "evaluate")


def made_by(kind: str, versions: dict, command=()) -> dict:
    """The maker of a stage: {"format": number, library: version or None}. versions: the result of `library_versions`.

    command: the words of the stage. The format of a training counts the changes of its results: by the dropout masks of
    our architectures on the CPU (models/dropout.py), by CROSS_ENTROPY for students without a teacher's distribution.
    The libraries of an evaluation depend on its backend.

    Builds of one version of torch (2.13.0+cpu, 2.13.0+cu126) count as the same, because the device is not a part of a
    request.
    """
    found = versions | {"fairseq": versions.get("fairseq", versions.get("ve-fairseq"))}
    changes = [kind in TRAININGS and trains_our_student(command), kind == "student" and is_cross_entropy(command)]
    number = MAKERS[kind].format + sum(changes)
    named = {name: found.get(name) or _other_version(name) for name in libraries_of(kind, command)}
    return {"format": number} | {name: value and value.partition("+")[0] for name, value in named.items()}


def _other_version(name: str) -> str | None:
    """The version of a library that `library_versions` does not list; None where it is not installed."""
    with contextlib.suppress(PackageNotFoundError):
        return version(name) if name in NOT_LISTED else None
    return None


def libraries_of(kind: str, command=()) -> tuple[str, ...]:
    """The libraries whose versions can change the result of a stage. command: its words."""
    libraries = MAKERS[kind].libraries
    if kind == "evaluate" and BY_CTRANSLATE2 in itertools.pairwise(command):
        return (*libraries, "ctranslate2")
    return libraries


def trains_our_student(command) -> bool:
    """Whether the words train an architecture of this package."""
    return any(a == "--arch" and b.startswith(("kd_student", "kd_adaptive")) for a, b in itertools.pairwise(command))


def is_cross_entropy(command) -> bool:
    """Whether the words train without a teacher's distribution, by CROSS_ENTROPY or BEFORE."""
    return "--criterion" in command and not {"--teacher", "--teacher-cache", "kd_mutual"} & set(command)
