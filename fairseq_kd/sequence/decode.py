"""`fairseq-kd decode`: a subset of a data-bin and a teacher -> a data-bin with the teacher's targets."""

import os
from functools import partial
from pathlib import Path

from fairseq_kd.artifacts.blocks import work_through
from fairseq_kd.artifacts.hashes import data_files, dictionary_hash
from fairseq_kd.artifacts.inputs import Inputs
from fairseq_kd.artifacts.manifest import DECODED, library_versions
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.paths import check_new_data_bin
from fairseq_kd.export.runtime import CannotComputeError
from fairseq_kd.inference.device import choose_device
from fairseq_kd.inference.opening import infer_languages, open_data
from fairseq_kd.sequence.assemble import Given
from fairseq_kd.sequence.converted import ConvertedTeacher, open_converted
from fairseq_kd.sequence.converted_backend import ConvertedBackend
from fairseq_kd.sequence.converted_options import ConvertedOptions, check_for_converted, second_models
from fairseq_kd.sequence.converted_sources import texts_of
from fairseq_kd.sequence.ctranslate2_backend import convert, named_backend, reason_against, teacher_backend
from fairseq_kd.sequence.decode_options import DecodeOptions
from fairseq_kd.sequence.judges import Judges, open_judges
from fairseq_kd.sequence.work import DecodeWork
from fairseq_kd.teacher.ensemble import Teachers, open_teachers

KIND = DECODED
FORMAT = 1
BLOCK_SENTENCES = 4096  # a kill loses at most one block; the sentences of a block are sorted by length
VERSIONS = ("fairseq_kd", "fairseq", "ve-fairseq", "torch", "numpy", "ctranslate2", "sacrebleu")


def decode(
    data_bin,
    teacher: str | ConvertedOptions,
    out,
    options: DecodeOptions,
    *,
    shard=(0, 1),
    teacher_data=None,
    trust=None,
    post_process=None,
    workers=None,
    say=print,
    block_sentences=BLOCK_SENTENCES,
    lang_pair=None,
) -> dict | None:
    """Make, or continue, the data-bin `out`; return its manifest, or None while other shards are unfinished.

    teacher: a checkpoint, the checkpoints of an ensemble joined by ":", or a converted model. teacher_data: folder with
    the teacher's dictionaries; None: the folder that the checkpoint names. trust: a checkpoint that may hold code.
    post_process: how subwords become text for selections and filters that read text; None: as the data-bin's manifest
    says. workers: see `load_translator`. lang_pair: see `load_pair`.
    Raises KDError when data, teacher, options and `out` do not fit together.
    """
    check_new_data_bin(out)
    with Inputs() as inputs:
        if isinstance(teacher, ConvertedOptions):
            check_for_converted(options, teacher_data=teacher_data, trust=trust, workers=workers, lang_pair=lang_pair)
            teachers = _open_converted(data_bin, teacher, options.subset, out, inputs, say)
        else:
            opened = {
                "data": teacher_data,
                "dtype": dtype_of_models(options),
                "trust": of_teacher(trust, teacher, options),
                "inputs": inputs,
            }
            teachers = open_teachers(data_bin, teacher, options.subset, lang_pair=lang_pair, **opened)
        if len(teachers.dataset) == 0:
            raise KDError(f"subset {options.subset!r} of {data_bin} has no sentences: there is nothing to decode")
        others = {"data": teacher_data, "dtype": dtype_of_models(options), "trust": trust}
        judges = open_judges(data_bin, teachers, options, post_process=post_process, **others)
        backend = choose_backend(teachers, options, workers, say)
        given = Given(Path(data_bin), described=teachers.described())
        work = DecodeWork(teachers, options, backend, given, block_sentences, judges)
        identity = describe_data(data_bin, teachers.task, options.subset, inputs)
        request = describe(identity, teachers, options, backend, judges) | {"block_sentences": block_sentences}
        return work_through(out, request, work, shard, inputs)


def _open_converted(data_bin, teacher: ConvertedOptions, subset: str, out, inputs: Inputs, say) -> ConvertedTeacher:
    inputs.watch_data_bin(data_bin)
    task = open_data(data_bin, infer_languages(data_bin), subset)
    identity = describe_data(data_bin, task, subset, inputs)
    texts = partial(texts_of, data_bin, task, subset)
    return open_converted(data_bin, teacher, task, subset, out, identity, texts, inputs, say)


def of_teacher(trust: str | None, teacher: str, options: DecodeOptions) -> str | None:
    """--trust-checkpoint, unless it names a second model only."""
    return None if trust in second_models(options) and trust not in str(teacher).split(os.pathsep) else trust


def dtype_of_models(options: DecodeOptions) -> str:
    """The type in which fairseq's models are loaded; CTranslate2 quantises by itself."""
    return "float32" if options.dtype == "int8" else options.dtype


def choose_backend(teachers: Teachers | ConvertedTeacher, options: DecodeOptions, workers=None, say=print):
    """The backend that the options name; "auto": CTranslate2 if it can run strategy and teacher, else fairseq.

    Raises KDError when the named backend cannot run them.
    """
    if isinstance(teachers, ConvertedTeacher):
        return ConvertedBackend(teachers, options, choose_device(options.cpu), workers)
    if workers is not None and workers < 1:
        raise KDError(f"--workers {workers}: must be at least 1")
    device = choose_device(options.cpu)
    if options.backend == "ctranslate2":
        return named_backend(teachers, options, device, workers)
    why_not = reason_against(teachers, options.how)
    if options.backend == "auto" and not why_not:
        try:
            convert(teachers)
        except KDError as error:
            why_not = str(error)
    if options.backend == "auto" and not why_not:
        try:
            return teacher_backend(teachers, options, device, workers)
        except CannotComputeError as error:
            why_not = str(error)
    if options.dtype == "int8":
        raise KDError(f"--dtype int8 needs CTranslate2, which cannot do this: {why_not}; give another --dtype")
    if workers is not None:
        raise KDError("--workers is for --backend ctranslate2; share the work of fairseq by --shard I/N")
    if options.backend == "auto":
        say(f"decoding with fairseq: {why_not}")
    return options.how.open_fairseq(teachers, options.settings(), options.max_tokens, device)


def describe_data(data_bin, task, subset: str, inputs: Inputs) -> dict:
    """The identity of the sentences of a data-bin, for `describe`."""
    names = data_files(data_bin, subset, task.cfg.source_lang, task.cfg.target_lang)
    return {
        "sentences": len(task.dataset(subset)),
        "data_bin": str(Path(data_bin).absolute()),
        "data": inputs.hashes(data_bin, names),
    }


def describe(identity: dict, teachers: Teachers, options: DecodeOptions, backend, judges: Judges) -> dict:
    """Everything on which the data depend, for the manifest. identity: of the sentences."""
    versions = library_versions()
    return {
        "kind": KIND,
        "format": FORMAT,
        "subset": options.subset,
        "strategy": options.strategy,
        "settings": options.settings(),
        "select": options.select,
        "closest": judges.selector.describe() if options.select == "closest" else None,
        "filters": options.filters,
        "fallback": options.fallback,
        "backend": backend.name,
        "dtype": options.dtype,
        "max_tokens": backend.max_tokens,
        "teacher": teachers.fingerprint(),
        "dictionaries": {
            "source": dictionary_hash(teachers.task.source_dictionary),
            "target": dictionary_hash(teachers.task.target_dictionary),
        },
        **judges.described,
        **identity,
        "device": choose_device(options.cpu).type,
        "versions": {name: versions[name] for name in VERSIONS if name in versions},
    }
