"""Run a teacher on a subset of a data-bin and write its cache."""

from pathlib import Path

from fairseq_kd.artifacts.hashes import data_files, dictionary_hash
from fairseq_kd.artifacts.inputs import Inputs
from fairseq_kd.artifacts.manifest import library_versions, read_manifest
from fairseq_kd.artifacts.request import PARTS
from fairseq_kd.cache.format import KIND, WITH_GOLD
from fairseq_kd.cache.options import CachingOptions
from fairseq_kd.cache.rounding import measure_rounding
from fairseq_kd.cache.teacher_rows import TeacherRows
from fairseq_kd.cache.teachers import describe_teachers, exact_teachers, load_teachers
from fairseq_kd.cache.writer import write_cache
from fairseq_kd.core.paths import listed
from fairseq_kd.inference.multilingual import PLAIN, layout_of
from fairseq_kd.inference.precision import check_bfloat16
from fairseq_kd.loss.weights import Weighting

VERSIONS = ("fairseq_kd", "fairseq", "ve-fairseq", "torch", "numpy")


def make_cache(
    data_bin,
    teacher,
    out,
    options: CachingOptions,
    shard=(0, 1),
    teacher_data=None,
    trust=None,
    block_tokens=None,
    weighting: Weighting | None = None,
    student_task: str | None = None,
    lang_pair: str | None = None,
) -> dict | None:
    """Write, or continue, the cache `out`. Return its manifest, or None if other shards are not complete yet.

    teacher: a checkpoint; or several, joined by ":", whose mixture is cached, by `weighting` (None: equal).
    teacher_data: folder with the teacher's dictionaries; None: the folder recorded in the checkpoint. trust: the path
    of a teacher that may contain code. block_tokens: see `write_cache`. student_task, lang_pair: see
    `load_pair`.
    Raises KDError when teacher, data and options do not fit together.
    """
    if options.rounds_products():
        check_bfloat16(options.device(), "--teacher-dtype bfloat16")
    paths = listed(teacher)
    with Inputs() as inputs:
        inputs.watch(*paths)
        inputs.watch_data_bin(data_bin)
        described = describe_teachers(paths, weighting or Weighting(), inputs)
        how = {"data": teacher_data, "trust": None if trust is None else str(trust)}
        of_student = {} if student_task is None else {"student_task": student_task}
        opened = {"signals_only": True, "lang_pair": lang_pair, **of_student, **how}
        model, task = load_teachers(data_bin, described, options, **opened)
        exact = exact_teachers(model, task, options, **how)
        for path in set(paths):
            inputs.loaded(path)
        compute = TeacherRows(model, task, options.format(len(task.target_dictionary), _stores_gold(out)), options)
        return write_cache(
            out,
            compute.format,
            describe_inputs(data_bin, described.record(model), task, options, inputs) | of_student,
            compute.sizes,
            compute,
            shard,
            block_tokens,
            compute.fit,
            inputs=inputs,
            measure=None if exact is None else lambda stored: measure_rounding(exact, compute, stored),
        )


def _stores_gold(out) -> bool:
    """Whether the cache gets gold.bin. A cache of format 2 that exists, or was begun, keeps its format."""
    for folder in (Path(out), Path(out) / PARTS):
        if (found := read_manifest(folder)) is not None:
            return found.get("kind") != KIND or found.get("format") != WITH_GOLD - 1
    return True


def describe_inputs(data_bin, teachers: dict, task, options: CachingOptions, inputs: Inputs) -> dict:
    """The inputs and options on which the rows depend, for the manifest. teachers: see `Described.record`."""
    pair = (task.cfg.source_lang, task.cfg.target_lang)
    versions = library_versions()
    return {
        "subset": options.subset,
        "source_lang": pair[0],
        "target_lang": pair[1],
        "teacher": {
            **teachers,
            "dtype": options.teacher_dtype,
            **({"rounded": "products"} if options.rounds_products() else {}),  # else the weights have this dtype
        },
        **({} if (layout := layout_of(task.cfg)) == PLAIN else {"language_tokens": str(layout)}),
        "dictionaries": {
            "source": dictionary_hash(task.source_dictionary),
            "target": dictionary_hash(task.target_dictionary),
        },
        "data_bin": str(Path(data_bin).absolute()),
        "data": inputs.hashes(data_bin, data_files(data_bin, options.subset, *pair)),
        "max_tokens": options.max_tokens,
        "device": options.device().type,
        "versions": {name: versions[name] for name in VERSIONS if name in versions},
    }
