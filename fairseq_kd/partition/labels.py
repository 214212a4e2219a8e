"""The domains of sentences: text files with one label per line."""

from pathlib import Path

from fairseq_kd.artifacts.inputs import Inputs
from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus.text import read_evaluation_text

TRAIN = "train"


def parse_domains(given: list[str], subsets: list[str]) -> dict[str, Path]:
    """Subset -> file, from the values of --domains: FILE for the training set, SUBSET=FILE for another subset.

    subsets: those of the data-bin. A value that names an existing file as a whole is this file.
    Raises KDError for a subset that is named twice and for files that do not exist.
    """
    found = {}
    for value in given:
        subset, _, name = value.partition("=")
        if Path(value).exists() or subset not in subsets:
            subset, name = TRAIN, value
        if subset in found:
            raise KDError(f"--domains: a file for {subset} is given twice; write SUBSET=FILE for other subsets")
        if not Path(name).is_file():
            raise KDError(f"--domains {value}: {name} is not there; give a file with one label per sentence")
        found[subset] = Path(name)
    return found


def read_domains(paths: dict[str, Path], sizes: dict[str, int], inputs: Inputs) -> dict[str, list[str]]:
    """Subset -> the label of each sentence. sizes: subset -> number of sentences.

    Raises KDError for another number of lines and for a line without a label.
    """
    inputs.watch(*paths.values())
    found = {}
    for subset, path in paths.items():
        labels = read_evaluation_text(path)
        if len(labels) != sizes[subset]:
            raise KDError(
                f"--domains: {path} has {len(labels):,} lines, and {subset} has {sizes[subset]:,} sentences, so they "
                "are not aligned: give one label per sentence, in the same order"
            )
        if "" in labels:
            raise KDError(f"--domains: line {labels.index('') + 1} of {path} has no label: give each sentence one")
        found[subset] = labels
    return found
