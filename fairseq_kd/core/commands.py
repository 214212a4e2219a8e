"""The sub-commands of `fairseq-kd` by name. Each is a module of `fairseq_kd.cli`, imported when it is asked for.

The command line chooses one of them. A study lets them parse the commands that it plans.
"""

import importlib
from types import ModuleType

COMMANDS = {
    "quickstart": "train a teacher, a plain student and a distilled student, and print their BLEU",
    "prepare": "make a data-bin from raw text",
    "cache": "store what a teacher says about every target token, for training without the teacher",
    "decode": "make training data from the teacher: beam, greedy, teacher forcing or sampling",
    "mix": "make one data-bin of several, such as original and distilled training data",
    "noise": "noise of known rates in text or in a data-bin: delete, substitute, swap",
    "verify-cache": "verify a teacher cache: its files, and a sample of it against the teacher",
    "count": "print the parameters of an architecture by part, and its operations a target token",
    "init-student": "begin a student with layers, embeddings and channels of its teacher",
    "compact": "cut the closed gates out of an adaptive student",
    "export": "write a student as a CTranslate2 model, and compare its BLEU, size and speed",
    "select-teacher": "measure loss and BLEU of the checkpoints of a training, and choose the teacher among them",
    "evaluate": "translate a subset and score it: BLEU, chrF, TER with intervals, calibration, agreement, cost",
    "compare": "compare results of evaluate: paired tests over segments and over seeds",
    "study": "run a whole experiment from one YAML file, or continue it",
    "search": "search for the best options of word-level distillation",
    "doctor": "print versions, devices and optional parts, and what to do about what is missing",
}


def load_command(name: str) -> ModuleType:
    """The module of a sub-command, with `add_arguments(parser)` and `run(args)`. name: a key of COMMANDS."""
    return importlib.import_module(f"fairseq_kd.cli.{name.replace('-', '_')}")
