"""The checkpoint whose vocabulary is pruned: its model, and which entries of its dictionaries come from a file.

A task can add entries to the dictionaries of its files: translation_from_pretrained_bart and
translation_multi_simple_epoch add a token per language. These entries have rows in the embeddings, behind the rows of
the file, and are in no file. So a smaller file must hold the kept entries of the file only, in their order: the task
then adds its own entries behind them as before.
"""

import copy
import tempfile
from dataclasses import dataclass
from pathlib import Path

from omegaconf import open_dict

from fairseq_kd.artifacts.data_bin_check import read_dictionary
from fairseq_kd.core.errors import KDError
from fairseq_kd.inference.checkpoint import read_checkpoint
from fairseq_kd.inference.confinement import confined
from fairseq_kd.inference.dictionaries import check_same_dictionary
from fairseq_kd.inference.frozen import build_model
from fairseq_kd.inference.language_tasks import (
    DICTIONARY_FILES,
    configure_any_task,
    language_pairs_of,
    read_file,
    readable,
    recorded_languages,
)
from fairseq_kd.inference.opening import infer_languages

SIDES = ("source", "target")
OPTION = "--dictionaries"


@dataclass
class Opened:
    """A checkpoint that was read and built.

    languages: (source, target). all_languages: those whose dictionaries the task reads, each with its side, 0 or 1.
    dictionaries: (source, target) with the entries that the task adds; files: without them. added: the entries that the
    task adds, also those that are in a file.
    """

    path: str
    trust: bool
    state: dict
    model: object
    languages: tuple[str, str]
    all_languages: dict[str, int]
    dictionaries: tuple
    files: tuple
    added: frozenset[str]

    @property
    def is_joined(self) -> bool:
        """Whether source and target have the same entries, so that they stay the same."""
        return self.dictionaries[0].symbols == self.dictionaries[1].symbols


def open_checkpoint(path, data_bin, folder=None, languages=None, trust: bool = False) -> Opened:
    """Read and build the checkpoint.

    folder: of its dictionaries; None: the one that it records. languages: (source, target), None: those of the
    checkpoint or else of the data-bin. Raises KDError for what cannot be read, built or pruned.
    """
    state = read_checkpoint(path, trust=trust)
    languages = _configure(path, state, data_bin, folder, languages)
    model, task = build_model(path, state, trust)
    _check_no_classes(path, model)
    others = _all_languages(state["cfg"].task, languages)
    added = _added_by_the_task(state, others)
    dictionaries = (task.source_dictionary, task.target_dictionary)
    files = tuple(read_file(state["cfg"].task, lang, side, OPTION) for side, lang in enumerate(languages))
    return Opened(str(path), trust, state, model, languages, others, dictionaries, files, added)


def located(task_cfg, folder, all_languages: dict[str, int]):
    """A copy of a task's configuration that reads its dictionaries from `folder`."""
    found = readable(copy.deepcopy(task_cfg))
    found.data = str(folder)
    for option, side in DICTIONARY_FILES.items():
        if getattr(found, option, None):
            lang = next(lang for lang, its_side in all_languages.items() if its_side == side or len(all_languages) == 1)
            setattr(found, option, str(Path(folder) / f"dict.{lang}.txt"))
    return found


def check_data_dictionaries(opened: Opened, data_bin) -> None:
    """Raises KDError, with the first difference, unless each id of the data-bin is the same entry in the checkpoint.

    The checkpoint may have further entries that its task adds, or that its --fixed-dictionary has.
    """
    is_longer = getattr(opened.state["cfg"].task, "fixed_dictionary", None)
    for side, lang in enumerate(opened.languages):
        theirs, ours = read_dictionary(Path(data_bin) / f"dict.{lang}.txt"), opened.dictionaries[side]
        further = ours.symbols[len(theirs) :]
        begins = ours.symbols[: len(theirs)] == theirs.symbols
        if not begins or not (is_longer or opened.added.issuperset(further)):
            check_same_dictionary(ours, theirs, SIDES[side], (opened.path, str(data_bin)))


def _configure(path, state, data_bin, folder, languages) -> tuple[str, str]:
    """Set the folder of the dictionaries in `state`; return (source, target)."""
    recorded = recorded_languages(state["cfg"].task)
    if languages is not None and recorded not in (None, languages):
        raise KDError(
            f"--source-lang {languages[0]} --target-lang {languages[1]} have no effect: {path} translates "
            f"{'-'.join(recorded)}; leave them out"
        )
    if languages is None and recorded is None:
        languages = infer_languages(data_bin)
    return configure_any_task(path, state, folder, languages, OPTION)


def _all_languages(task_cfg, languages) -> dict[str, int]:
    found = {pair[side]: side for side in (1, 0) for pair in language_pairs_of(task_cfg)}
    return dict.fromkeys(languages) | found | {languages[1]: 1, languages[0]: 0}


def _added_by_the_task(state, all_languages) -> frozenset[str]:
    """The entries of the task's dictionaries where the files are empty, without fairseq's special symbols."""
    from fairseq import tasks

    with tempfile.TemporaryDirectory() as folder:
        for lang in all_languages:
            (Path(folder) / f"dict.{lang}.txt").touch()
        with confined():
            task = tasks.setup_task(located(state["cfg"].task, folder, all_languages))
    found = (task.source_dictionary, task.target_dictionary)
    return frozenset(symbol for one in found for symbol in one.symbols[one.nspecial :])


def _check_no_classes(path, model) -> None:
    from fairseq.modules import AdaptiveInput, AdaptiveSoftmax

    found = [name for name, part in model.named_modules() if isinstance(part, AdaptiveInput | AdaptiveSoftmax)]
    if found:
        raise KDError(
            f"{path} has an adaptive vocabulary ({found[0]}): its rows are in classes by frequency, so rows cannot be "
            "left out. Give a checkpoint without adaptive input and adaptive softmax"
        )


def configured(opened: Opened, folder) -> dict:
    """The state of the checkpoint with its dictionaries in `folder`; the weights are the old ones."""
    state = opened.state | {"cfg": copy.deepcopy(opened.state["cfg"])}
    with open_dict(state["cfg"]):
        state["cfg"].task = located(opened.state["cfg"].task, folder, opened.all_languages)
    return state
