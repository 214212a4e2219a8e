"""`fairseq-kd decode --source-text`: monolingual text and a teacher -> a data-bin with the teacher's targets.

The text becomes a data-bin of sources (`corpus.source_text`) in OUT/parts/.sources, which `decode` then works on. The
training set of OUT is the text; everything else is that of the data-bin `like`. A finished OUT has no parts any more:
its own training set is opened instead.
"""

from pathlib import Path

from fairseq_kd.artifacts.blocks import work_through
from fairseq_kd.artifacts.inputs import Inputs
from fairseq_kd.artifacts.manifest import read_manifest
from fairseq_kd.artifacts.request import PARTS, check_free
from fairseq_kd.core.paths import check_new_data_bin
from fairseq_kd.corpus.like import Like, read_like
from fairseq_kd.corpus.source_text import LINES_NAME, describe_text, make_sources
from fairseq_kd.inference.opening import open_data
from fairseq_kd.sequence.assemble import Given
from fairseq_kd.sequence.decode import BLOCK_SENTENCES, KIND, choose_backend, describe, dtype_of_models
from fairseq_kd.sequence.decode_options import DecodeOptions, check_without_gold
from fairseq_kd.sequence.judges import open_judges
from fairseq_kd.sequence.work import DecodeWork
from fairseq_kd.teacher.ensemble import open_teachers

SOURCES = ".sources"


def decode_text(
    files,
    like,
    teacher: str,
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
) -> dict | None:
    """Make, or continue, the data-bin `out` from text in the teacher's source language; return as `decode.decode` does.

    files: text, one sentence per line, plain or compressed; their order is the order of the sentences. like: the
    data-bin of the teacher, see `corpus.like`. Other arguments: see `decode.decode`.
    Raises KDError for options that need gold targets, and when text, data, teacher, options and `out` do not fit
    together.
    """
    check_new_data_bin(out)
    check_without_gold(options)
    read_like(like)
    out, sources = Path(out), Path(out) / PARTS / SOURCES
    with Inputs() as inputs:
        identity = {"data_bin": str(Path(like).absolute()), "source_text": describe_text(files, like, inputs)}
        check_free(out, {"kind": KIND, "source_text": identity["source_text"]})

        def open_task(model):
            if read_manifest(out) is None:
                make_sources(files, Like(like, model.languages), identity["source_text"], sources, inputs, say)
            return open_data(_sentences_of(out), model.languages, "train", needs_target=False, like=model)

        opened = {"data": teacher_data, "dtype": dtype_of_models(options), "trust": trust, "inputs": inputs}
        teachers = open_teachers(like, teacher, "train", open_task=open_task, lang_pair=lang_pair, **opened)
        backend = choose_backend(teachers, options, workers, say)
        text = read_manifest(_sentences_of(out))
        described = {"sentences": text["cleaning"]["kept"], "cleaning": text["cleaning"]}
        described["source_files"] = [str(Path(path).absolute()) for path in files]
        given = Given(sources, Path(like), (LINES_NAME,), described)
        others = {"data": teacher_data, "dtype": dtype_of_models(options)}
        judges = open_judges(like, teachers, options, **others)
        work = DecodeWork(teachers, options, backend, given, block_sentences, judges)
        request = describe(identity, teachers, options, backend, judges) | {"block_sentences": block_sentences}
        return work_through(out, request, work, shard, inputs)


def _sentences_of(out: Path) -> Path:
    """The data-bin that has the sentences: the finished one, else the sources."""
    return out if read_manifest(out) is not None else out / PARTS / SOURCES
