"""`fairseq-kd decode --source-text`: monolingual text and a teacher -> a data-bin with the teacher's targets.

The text becomes a data-bin of sources (`corpus.source_text`) in OUT/parts/.sources, which `decode` then works on. The
training set of OUT is the text; everything else is that of the data-bin `like`. A finished OUT has no parts any more:
its own training set is opened instead. With `back` the text is the target side (see `back`).
"""

from functools import partial
from pathlib import Path

from fairseq_kd.artifacts.blocks import work_through
from fairseq_kd.artifacts.inputs import Inputs
from fairseq_kd.artifacts.manifest import read_manifest
from fairseq_kd.artifacts.request import PARTS, check_free
from fairseq_kd.core.paths import check_new_data_bin
from fairseq_kd.corpus.like import Like, read_like
from fairseq_kd.corpus.source_text import LINES_NAME, describe_text, kept_texts, make_sources
from fairseq_kd.inference.opening import infer_languages, open_data
from fairseq_kd.sequence.assemble import Given
from fairseq_kd.sequence.back import Back, check_direction, check_recorded
from fairseq_kd.sequence.converted import open_converted
from fairseq_kd.sequence.converted_options import ConvertedOptions, check_for_converted
from fairseq_kd.sequence.decode import BLOCK_SENTENCES, KIND, choose_backend, describe, dtype_of_models, of_teacher
from fairseq_kd.sequence.decode_options import DecodeOptions, check_without_gold
from fairseq_kd.sequence.judges import open_judges
from fairseq_kd.sequence.work import DecodeWork
from fairseq_kd.teacher.ensemble import open_teachers

SOURCES = ".sources"


def decode_text(
    files,
    like,
    teacher: str | ConvertedOptions,
    out,
    options: DecodeOptions,
    *,
    shard=(0, 1),
    teacher_data=None,
    trust=None,
    workers=None,
    say=print,
    block_sentences=BLOCK_SENTENCES,
    lang_pair=None,
    back: Back | None = None,
) -> dict | None:
    """Make, or continue, the data-bin `out` from text in the teacher's source language; return as `decode.decode` does.

    files: text, one sentence per line, plain or compressed; their order is the order of the sentences. like: the
    data-bin of the teacher, see `corpus.like`. back: the text is in the target language of `like`, and the teacher
    translates to its source language. Other arguments: see `decode.decode`.
    Raises KDError for options that need gold targets, and when text, data, teacher, options and `out` do not fit
    together.
    """
    check_new_data_bin(out)
    check_without_gold(options)
    _check_like(like, back)
    out, sources = Path(out), Path(out) / PARTS / SOURCES
    with Inputs() as inputs:
        identity = {"data_bin": str(Path(like).absolute()), "source_text": describe_text(files, like, inputs)}
        identity |= {} if back is None else {"back": back.as_dict()}
        check_recorded(out, check_free(out, {"kind": KIND, "source_text": identity["source_text"]}), back)

        def open_task(languages, model=None):
            check_direction(languages, infer_languages(like), back)
            if read_manifest(out) is None:
                make_sources(files, Like(like, languages), identity["source_text"], sources, inputs, say)
            return open_data(_sentences_of(out), languages, "train", needs_target=False, like=model)

        teachers = _open_teacher(like, teacher, options, open_task, out, identity, partial(kept_texts, files, sources),
                                 teacher_data=teacher_data, trust=trust, workers=workers, lang_pair=lang_pair,
                                 inputs=inputs, say=say)  # fmt: skip
        others = {"data": teacher_data, "dtype": dtype_of_models(options), "trust": trust}
        judges = open_judges(like, teachers, options, **others)
        backend = choose_backend(teachers, options, workers, say)
        given = Given(sources, Path(like), (LINES_NAME,), _described(files, out) | teachers.described(), back)
        work = DecodeWork(teachers, options, backend, given, block_sentences, judges)
        request = describe(identity, teachers, options, backend, judges) | {"block_sentences": block_sentences}
        return work_through(out, request, work, shard, inputs)


def _check_like(like, back: Back | None) -> None:
    read_like(like)
    if back is not None:
        back.check(like)


def _open_teacher(
    like, teacher, options, open_task, out, identity, texts, *, teacher_data, trust, workers, lang_pair, inputs, say
):
    """The teacher and its task. open_task: called with (source, target) and a loaded model of fairseq or None."""
    if isinstance(teacher, ConvertedOptions):
        check_for_converted(options, teacher_data=teacher_data, trust=trust, workers=workers, lang_pair=lang_pair)
        languages = infer_languages(like)
        task = open_task(languages[::-1] if "back" in identity else languages)
        return open_converted(like, teacher, task, "train", out, identity, texts, inputs, say)
    how = {"data": teacher_data, "dtype": dtype_of_models(options), "inputs": inputs}
    how |= {"trust": of_teacher(trust, teacher, options)}
    how |= {"open_task": lambda model: open_task(model.languages, model), "lang_pair": lang_pair}
    return open_teachers(like, teacher, "train", **how)


def _described(files, out: Path) -> dict:
    """What the manifest says about the text."""
    cleaning = read_manifest(_sentences_of(out))["cleaning"]
    names = [str(Path(path).absolute()) for path in files]
    return {"sentences": cleaning["kept"], "cleaning": cleaning, "source_files": names}


def _sentences_of(out: Path) -> Path:
    """The data-bin that has the sentences: the finished one, else the sources."""
    return out if read_manifest(out) is not None else out / PARTS / SOURCES
