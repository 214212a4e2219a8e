"""A teacher together with the data that it is to be run on, outside of a training."""

from pathlib import Path

from fairseq_kd.corpus.data_bin import check_subset
from fairseq_kd.corpus.language_pair import language_pairs
from fairseq_kd.errors import KDError
from fairseq_kd.paths import check_data_bin
from fairseq_kd.teacher.loading import load_teacher


def load_pair(data_bin, teacher_path, subset: str, *, data=None, dtype: str = "float32", trust: bool = False):
    """(Teacher, task with `subset` loaded), in the languages that the teacher was trained on.

    data: folder with the teacher's dictionaries; None: where the checkpoint says. dtype, trust: see `load_teacher`.
    Raises KDError when one of them cannot be used, or when their dictionaries differ.
    """
    pairs = _language_pairs(data_bin)
    languages = pairs[0] if len(pairs) == 1 else (None, None)  # for a checkpoint that records none
    teacher = load_teacher(teacher_path, data=data, languages=languages, dtype=dtype, trust=trust)
    task = open_data(data_bin, teacher.languages, subset)
    teacher.check_dictionaries(task.source_dictionary, task.target_dictionary)
    return teacher, task


def open_data(data_bin, languages: tuple[str, str], subset: str):
    """A translation task on `data_bin` with `subset` loaded as fairseq-train would.

    Raises KDError when dictionaries or subset are missing, and for what `check_subset` refuses.
    """
    from fairseq.tasks.translation import TranslationConfig, TranslationTask

    source, target = languages
    check_data_bin(data_bin)
    for lang in languages:
        if not (Path(data_bin) / f"dict.{lang}.txt").is_file():
            raise KDError(f"{data_bin} has no dict.{lang}.txt: it is no data-bin for {source}-{target}")
    cfg = TranslationConfig(
        data=str(data_bin),
        source_lang=source,
        target_lang=target,
        upsample_primary=1,  # fairseq's own default of -1 fails where there are train1, train2, ...
        dataset_impl=check_subset(data_bin, subset, languages, combine=subset == "train"),
        # these two stand for options of a training, which there is none of here
        train_subset="train",
        required_seq_len_multiple=1,
    )
    task = TranslationTask.setup_task(cfg)
    try:
        task.load_dataset(subset, combine=subset == "train")
    except FileNotFoundError as error:
        raise KDError(f"{data_bin} has no subset {subset!r} for {source}-{target} (--subset)") from error
    if task.dataset(subset).tgt is None:
        raise KDError(f"subset {subset!r} of {data_bin} has no target side, which is needed beside the source")
    return task


def infer_languages(data_bin) -> tuple[str, str]:
    """(source, target) by the manifest or the file names of a data-bin. Raises KDError when they do not say."""
    pairs = _language_pairs(data_bin)
    if len(pairs) > 1:
        listed = ", ".join(f"{source}-{target}" for source, target in pairs)
        raise KDError(f"{data_bin} holds more than one language pair ({listed}): give --source-lang and --target-lang")
    if not pairs:
        raise KDError(f"the file names in {data_bin} do not say its languages: give --source-lang and --target-lang")
    return pairs[0]


def _language_pairs(data_bin) -> list[tuple[str, str]]:
    check_data_bin(data_bin)
    return language_pairs(data_bin)
