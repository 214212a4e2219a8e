"""Run a teacher on a subset of a data-bin and write its cache."""

from pathlib import Path

from fairseq_kd.artifacts.hashes import data_files, dictionary_hash
from fairseq_kd.artifacts.inputs import Inputs
from fairseq_kd.artifacts.manifest import library_versions, read_manifest
from fairseq_kd.artifacts.request import PARTS
from fairseq_kd.cache.format import KIND, WITH_GOLD
from fairseq_kd.cache.options import CachingOptions
from fairseq_kd.cache.rounding import exact_teacher, measure_rounding
from fairseq_kd.cache.teacher_rows import TeacherRows
from fairseq_kd.cache.writer import write_cache
from fairseq_kd.inference.opening import load_pair
from fairseq_kd.inference.precision import check_bfloat16

VERSIONS = ("fairseq_kd", "fairseq", "ve-fairseq", "torch", "numpy")


def make_cache(
    data_bin,
    teacher_path,
    out,
    options: CachingOptions,
    shard=(0, 1),
    teacher_data=None,
    trust=False,
    block_tokens=None,
) -> dict | None:
    """Write, or continue, the cache `out`. Return its manifest, or None if other shards are not complete yet.

    teacher_data: folder with the teacher's dictionaries; None: the folder recorded in the checkpoint. block_tokens: see
    `write_cache`. Raises KDError when teacher, data and options do not fit together.
    """
    if options.rounds_products():
        check_bfloat16(options.device(), "--teacher-dtype bfloat16")
    with Inputs() as inputs:
        inputs.watch(teacher_path)
        inputs.watch_data_bin(data_bin)
        teacher, task = load_pair(
            data_bin,
            teacher_path,
            options.subset,
            data=teacher_data,
            dtype=options.teacher_dtype,
            trust=trust,
            signals_only=True,
        )
        exact = exact_teacher(teacher, task, options, data=teacher_data, trust=trust)
        inputs.loaded(teacher_path)
        compute = TeacherRows(
            teacher, task, options.format(len(task.target_dictionary), _stores_gold(out)), options
        )
        made_from = describe_inputs(data_bin, teacher_path, task, options, inputs)
        return write_cache(
            out,
            compute.format,
            made_from,
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


def describe_inputs(data_bin, teacher_path, task, options: CachingOptions, inputs: Inputs) -> dict:
    """The inputs and options on which the rows depend, for the manifest."""
    pair = (task.cfg.source_lang, task.cfg.target_lang)
    versions = library_versions()
    return {
        "subset": options.subset,
        "source_lang": pair[0],
        "target_lang": pair[1],
        "teacher": {
            "path": str(Path(teacher_path).absolute()),
            "sha256": inputs.sha256(teacher_path),
            "dtype": options.teacher_dtype,
            **({"rounded": "products"} if options.rounds_products() else {}),  # else the weights have this dtype
        },
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
