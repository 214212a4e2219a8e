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
from fairseq_kd.inference.frozen import build_model, configure_own_task, data_folder
from fairseq_kd.inference.multilingual import check_pair, read_pair
from fairseq_kd.inference.opening import check_has_dictionaries, languages_for

SIDES = ("source", "target")
OPTION = "--dictionaries"


@dataclass
class Opened:
    """A checkpoint that was read and built.

    task_options: those of the task for one language pair, before it was set up. languages: (source, target).
    dictionaries: (source, target) with the entries that the task adds; files: without them. added: the entries that the
    task adds, also those that are in a file.
    """

    path: str
    trust: bool
    state: dict
    task_options: object
    model: object
    languages: tuple[str, str]
    dictionaries: tuple
    files: tuple
    added: frozenset[str]

    @property
    def is_joined(self) -> bool:
        """Whether source and target have the same entries, so that they stay the same."""
        return self.dictionaries[0].symbols == self.dictionaries[1].symbols


def open_checkpoint(path, data_bin, folder=None, lang_pair=None, trust: bool = False) -> Opened:
    """Read and build the checkpoint.

    folder: of its dictionaries; None: the one that it records. lang_pair: SOURCE-TARGET; None: the pair of the
    checkpoint or else of the data-bin. Raises KDError for what cannot be read, built or pruned.
    """
    state, asked = read_checkpoint(path, trust=trust), read_pair(lang_pair)
    configure_own_task(path, state, folder, languages_for(data_bin, asked), OPTION, language_tokens=True)
    options = copy.deepcopy(state["cfg"].task)  # the setup of the task changes the original
    languages = (options.source_lang, options.target_lang)
    check_pair(path, languages, asked)
    model, task = build_model(path, state, trust)
    _check_no_classes(path, model)
    return Opened(
        path=str(path),
        trust=trust,
        state=state,
        task_options=options,
        model=model,
        languages=languages,
        dictionaries=(task.source_dictionary, task.target_dictionary),
        files=tuple(read_dictionary(Path(data_folder(options)) / f"dict.{lang}.txt") for lang in languages),
        added=_added_by_the_task(options, languages),
    )


def located(task_options, folder):
    """A copy of the options of a task that reads its dictionaries from `folder`."""
    found = copy.deepcopy(task_options)
    found.data = str(folder)
    return found


def check_data_dictionaries(opened: Opened, data_bin) -> None:
    """Raises KDError, with the first difference, unless each id of the data-bin is the same entry in the checkpoint.

    The checkpoint may have further entries: those that its task adds, or those of a longer dictionary.
    """
    check_has_dictionaries(data_bin, opened.languages)
    for side, lang in enumerate(opened.languages):
        theirs, names = read_dictionary(Path(data_bin) / f"dict.{lang}.txt"), (opened.path, str(data_bin))
        check_same_dictionary(opened.dictionaries[side], theirs, SIDES[side], names, begins=True)


def _added_by_the_task(task_options, languages) -> frozenset[str]:
    """The entries of the task's dictionaries where the files are empty, without fairseq's special symbols."""
    from fairseq import tasks

    with tempfile.TemporaryDirectory() as folder:
        for lang in languages:
            (Path(folder) / f"dict.{lang}.txt").touch()
        with confined():
            task = tasks.setup_task(located(task_options, folder))
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
        state["cfg"].task = located(opened.task_options, folder)
    return state
