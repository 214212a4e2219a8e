"""Open a data-bin together with the frozen models that run on it."""

import os

from fairseq_kd.core.errors import KDError
from fairseq_kd.inference.frozen import FrozenModel, load_frozen
from fairseq_kd.inference.multilingual import PLAIN, check_pair, read_pair
from fairseq_kd.inference.opening import languages_for, open_data
from fairseq_kd.inference.without_tokens import WithoutTokens


def load_pair(
    data_bin,
    checkpoint,
    subset: str,
    *,
    data=None,
    open_task=None,
    student_task=None,
    lang_pair=None,
    languages=None,
    **options,
):
    """(FrozenModel of a checkpoint, task with `subset` loaded), in the languages of the model.

    data: folder with the model's dictionaries; None: the folder recorded in the checkpoint. open_task: called with the
    model instead of `open_data` on `data_bin`. student_task: TRANSLATION, for a model that is the teacher of a student
    without language tokens: then the data have none; None: the task of the model. lang_pair: SOURCE-TARGET, for a
    checkpoint or a data-bin of several; None: the pair of the data-bin. languages: (source, target) of a checkpoint of
    several where lang_pair is None; None: those of the data-bin. options: dtype, trust and signals_only of
    `load_frozen`.
    Raises KDError when checkpoint or data-bin cannot be used, or when their dictionaries differ.
    """
    asked = read_pair(lang_pair)
    if all(asked) or languages is None:
        languages = languages_for(data_bin, asked)
    model = load_frozen(checkpoint, data=data, languages=languages, **options)
    check_pair(checkpoint, model.languages, asked)
    if student_task is not None:
        task = open_data(data_bin, model.languages, subset)
        return _without_tokens(model, task, data_bin), task
    task = open_task(model) if open_task else open_data(data_bin, model.languages, subset, like=model)
    model.check_dictionaries(task.source_dictionary, task.target_dictionary, (str(checkpoint), str(data_bin)))
    return model, task


def _without_tokens(model: FrozenModel, task, data_bin) -> WithoutTokens:
    """The model for data without language tokens. Raises KDError for a model that adds none."""
    if model.layout == PLAIN:
        raise KDError(
            f"--student-task has no effect with {model.path}, whose task adds no language tokens: leave it out"
        )
    return WithoutTokens(model, task.source_dictionary, task.target_dictionary, (model.path, str(data_bin)))


def load_members(
    data_bin,
    paths: list[str],
    subset: str,
    *,
    trust: str | None = None,
    open_task=None,
    student_task=None,
    lang_pair=None,
    languages=None,
    **options,
):
    """(one FrozenModel per path, task with `subset` loaded). All have the dictionaries of the data.

    trust: the path, out of `paths`, of a checkpoint that may contain code. open_task, student_task, lang_pair,
    languages, options: see `load_pair`.
    Raises KDError as `load_pair` does, and when the language pairs of the models differ.
    """
    if trust is not None and trust not in paths:
        raise KDError(f"--trust-checkpoint {trust} is not the --teacher {os.pathsep.join(paths)}")
    how = {
        "open_task": open_task,
        "student_task": student_task,
        "lang_pair": lang_pair,
        "languages": languages,
        **options,
    }
    first, task = load_pair(data_bin, paths[0], subset, trust=trust == paths[0], **how)
    members = [first]
    for path in paths[1:]:
        member = load_frozen(path, languages=first.languages, trust=trust == path, **options)
        if student_task is not None:
            member = _without_tokens(member, task, data_bin)
        check_same_layout(path, member, paths[0], first)
        if member.languages != first.languages:
            raise KDError(
                f"{path} translates {'-'.join(member.languages)}, {paths[0]} {'-'.join(first.languages)}: an "
                "ensemble needs one language pair"
            )
        names = (str(path), str(data_bin))
        member.check_dictionaries(task.source_dictionary, task.target_dictionary, names)
        members.append(member)
    return members, task


def check_same_layout(path, member: FrozenModel, first_path, first: FrozenModel) -> None:
    """Raises KDError when two models that run on the same batches need other language tokens in them."""
    if member.layout != first.layout:
        raise KDError(
            f"{path} has {member.layout}, {first_path} has {first.layout}: an ensemble needs models of one task, "
            "and so does the agreement with a teacher"
        )
