"""The sub-commands of `fairseq-kd` by name. Each is a module of `fairseq_kd.cli`, imported when it is needed.

The command line runs one of them. A study uses their parsers to check the commands that it plans.
"""

import importlib
from types import ModuleType

COMMANDS = {
    "quickstart": "train a teacher, a plain student and a distilled student, and print their BLEU",
    "prepare": "make a data-bin from raw text",
    "adopt": "keep subword model and references beside a data-bin of fairseq-preprocess, for all other commands",
    "cache": "store the teacher's distribution for every target token, for training without the teacher",
    "decode": "make training data from the teacher: beam, greedy, teacher forcing or sampling",
    "mix": "combine several data-bins into one, such as original and distilled training data",
    "partition": "divide a data-bin or text into parts by size, length, topic, vocabulary or domain",
    "noise": "add noise with known rates to text or to a data-bin: delete, substitute, swap",
    "verify-cache": "verify the files of a teacher cache, and a sample of its rows against the teacher",
    "count": "print the parameters of an architecture by part, and its operations per target token",
    "init-student": "initialise a student with layers, embeddings and channels of its teacher",
    "compact": "remove the closed gates from an adaptive student",
    "prune-vocabulary": "keep the tokens that a data-bin uses: a smaller checkpoint, dictionaries and data-bin",
    "split": "write the models of a mutual training as one checkpoint each",
    "export": "write a student as a CTranslate2 model, and compare its BLEU, size and speed",
    "select-teacher": "measure loss and BLEU of the checkpoints of a training, and choose the teacher among them",
    "average": "write the mean of the weights of several models of equal shape",
    "translate": "translate lines of plain text with a checkpoint or an exported student",
    "evaluate": "translate a subset and score it: BLEU, chrF, TER with intervals, calibration, agreement, cost",
    "compare": "compare results of evaluate: paired tests over segments and over seeds",
    "study": "run a whole experiment from one YAML file, or continue it",
    "consolidate": "train one student from several models, and compare it with them, their mean and their ensemble",
    "federated": "train one model in rounds on parts of the data that stay apart, by Flower",
    "search": "search for the best options of word-level distillation",
    "user-dir": "print the folder of the plugin, the value for --user-dir of fairseq-train",
    "doctor": "print versions, devices and optional packages, and how to install what is missing",
}


def load_command(name: str) -> ModuleType:
    """The module of a sub-command, with `add_arguments(parser)` and `run(args)`. name: a key of COMMANDS."""
    return importlib.import_module(f"fairseq_kd.cli.{name.replace('-', '_')}")
