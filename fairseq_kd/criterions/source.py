"""The parts of kd_word that depend on student, task and options: implementation and signal source."""

import os
from functools import partial
from pathlib import Path

import torch

from fairseq_kd.artifacts.data_bin import check_trainable
from fairseq_kd.artifacts.manifest import DECODED, read_manifest
from fairseq_kd.cache.teachers import check_start
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.paths import check_one_folder, listed
from fairseq_kd.criterions.schedule import configurations, read_schedule
from fairseq_kd.criterions.teachers_config import NONE, start_of, teachers_of, weighting_of
from fairseq_kd.inference.device import prefer_attention_without_plans
from fairseq_kd.inference.multilingual import configuration, pairs_of
from fairseq_kd.inference.precision import OFF, check_bfloat16
from fairseq_kd.inference.supported import check_model, output_projection
from fairseq_kd.teacher.cached import CachedSignalSource
from fairseq_kd.teacher.cached_mixture import CachedMixtureSource, open_caches
from fairseq_kd.teacher.cached_partition import CachedPartitionSource
from fairseq_kd.teacher.online import OnlineSignalSource, check_top_k
from fairseq_kd.teacher.scheduled import ScheduledCaches, ScheduledNetworks, ScheduledPart
from fairseq_kd.teacher.several import SUPERVISED, MixtureSource, PartitionSource

SCHEDULED = "--teacher-schedule; for a cache give its folder"  # in messages about a file that does not exist


def choose_implementation(model, cfg, part=None, who: str = "the student") -> str:
    """ "fused" or "reference": the implementation of the loss that the student allows and --kd-implementation selects.

    part: the student, if `model` contains several; None: `model` itself. who: its name in messages.
    Raises KDError for a student that is not autoregressive or has an adaptive softmax, and if the selected
    implementation is not possible.
    """
    student = model if part is None else part
    check_model(student, who)
    _refuse_adaptive_softmax(student, who)
    projection, selected = output_projection(model, part), str(cfg.kd_implementation)
    fits = projection is not None
    if selected == "fused" and not fits:
        raise KDError(
            f"--kd-implementation fused does not fit: {who} has no output projection that can be applied by "
            "itself (it is not one of fairseq's transformers, or it is wrapped with --find-unused-parameters or fully "
            "sharded); omit it"
        )
    return "fused" if fits and selected != "reference" else "reference"


def _refuse_adaptive_softmax(model, who: str) -> None:
    if getattr(getattr(model, "decoder", None), "adaptive_softmax", None) is not None:
        raise KDError(
            f"{who} has an adaptive softmax (--adaptive-softmax-cutoff), which gives no distribution over the whole "
            "vocabulary to compare with the teacher's; train it without one"
        )


def check_training_data(task_cfg, split: str, languages: tuple[str, str]) -> None:
    """Check the existing files of a subset that a training uses, before fairseq loads them.

    fairseq would stop with an assertion or a KeyError. Raises KDError as `check_trainable`.
    """
    trained_on = split == getattr(task_cfg, "train_subset", "train")
    folders = str(task_cfg.data).split(os.pathsep)  # fairseq reads all other subsets from the first folder
    for folder in folders if trained_on else folders[:1]:
        check_trainable(folder, split, languages, getattr(task_cfg, "dataset_impl", None), combine=trained_on)


def prepare_training(task, split: str, autocast: str) -> None:
    """Check what a training needs before fairseq loads this subset, and choose the attention of CUDA.

    autocast: the value of --autocast. Raises KDError as `check_training_data` and `check_bfloat16`.
    """
    for pair in pairs_of(task):
        check_training_data(configuration(task), split, pair)
    prefer_attention_without_plans()
    if autocast != OFF and not torch.cuda.is_available():
        check_bfloat16(torch.device("cpu"), f"--autocast {autocast}")


def online_source(cfg, task, updates=None):
    """The source that runs the teachers, or None if the options do not need it. No file is opened.

    updates(): the number of updates before the present one, for --teacher-schedule.
    Raises KDError if --kd-top-k is not smaller than the vocabulary.
    """
    alone = configurations(cfg)
    if alone[0].teacher is None or (cfg.teacher_cache is not None and not cfg.kd_valid):
        return None
    check_top_k(cfg.kd_top_k, task)
    start = None if str(cfg.kd_partition) == NONE else _network(cfg, task, start_of(cfg), "start", "--kd-start")
    if cfg.teacher_schedule is None:
        return _networks(cfg, task, start)
    return ScheduledNetworks(_parts(cfg, [partial(_networks, each, task, start, SCHEDULED) for each in alone]), updates)


def _parts(cfg, opening: list) -> list[ScheduledPart]:
    parts = zip(read_schedule(cfg.teacher_schedule), opening, strict=True)
    return [ScheduledPart(part.paths, part.last, opened) for part, opened in parts]


def _networks(cfg, task, start, option: str = "--teacher") -> OnlineSignalSource | MixtureSource | PartitionSource:
    """The teachers of --teacher; with a start, the partition between them and the start."""
    paths, top_k = teachers_of(cfg), cfg.kd_top_k if start is None else 0
    named = len(paths) > 1 or option == SCHEDULED
    networks = [
        _network(cfg, task, path, f"teacher {path}" if named else "teacher", option, 0 if paths[1:] else top_k)
        for path in paths
    ]
    teacher = networks[0] if len(paths) == 1 else MixtureSource(networks, weighting_of(cfg), top_k)
    if start is None:
        return teacher
    return PartitionSource(teacher, start, str(cfg.kd_partition), str(cfg.kd_partition_per), cfg.kd_top_k)


def _network(cfg, task, path: str, name: str, option: str, top_k: int = 0) -> OnlineSignalSource:
    trusted = [] if cfg.trust_checkpoint is None else listed(cfg.trust_checkpoint)
    how = {"data": cfg.teacher_data, "dtype": str(cfg.teacher_dtype), "trust": path in trusted}
    return OnlineSignalSource(path, task, **how, top_k=top_k, name=name, option=option)


def training_source(cfg, task, online, updates=None):
    """The signal source for training, or None if the options name no teacher. online, updates: see `online_source`.

    Raises KDError when a cache cannot be used or a teacher's file cannot be opened. The teachers of a schedule are all
    loaded once.
    """
    if str(cfg.kd_partition) == SUPERVISED:
        _check_gold(configuration(task))
    if online is not None:
        online.check_file()
    alone = configurations(cfg)
    if alone[0].teacher_cache is None:
        return online
    check_one_folder(configuration(task).data, "--teacher-cache with the data")
    _check_one_pair(task)
    start = None if str(cfg.kd_partition) == NONE else _start_cache(cfg, task)
    if cfg.teacher_schedule is None:
        return _cached(cfg, task, start)
    return ScheduledCaches(_parts(cfg, [partial(_cached, each, task, start) for each in alone]), updates)


def _cached(cfg, task, start) -> CachedSignalSource | CachedMixtureSource | CachedPartitionSource:
    """The caches of --teacher-cache; with a start, the partition between the cache and the start."""
    how = {"temperature": cfg.teacher_temperature, "subset": getattr(configuration(task), "train_subset", "train")}
    source = open_caches(cfg.teacher_cache, task, weighting=weighting_of(cfg), stated_teacher=cfg.teacher, **how)
    if start is None:
        return source
    return CachedPartitionSource(source, start, str(cfg.kd_partition), str(cfg.kd_partition_per))


def _start_cache(cfg, task) -> CachedSignalSource:
    """The cache of the student's start. Raises KDError when it is of another checkpoint than the training's start."""
    how = {"temperature": cfg.teacher_temperature, "subset": getattr(configuration(task), "train_subset", "train")}
    source = CachedSignalSource(cfg.kd_start_cache, task, **how)
    if cfg.kd_start is not None:
        check_start(cfg.kd_start_cache, source.reader.manifest, cfg.kd_start, "--kd-start")
    elif cfg.finetune_from_model is not None and Path(cfg.finetune_from_model).is_file():  # a resume does not need it
        check_start(cfg.kd_start_cache, source.reader.manifest, cfg.finetune_from_model, "--finetune-from-model")
    return source


def _check_one_pair(task) -> None:
    if len(pairs := pairs_of(task)) > 1:
        listed = ",".join("-".join(pair) for pair in pairs)
        raise KDError(
            f"--teacher-cache with the language pairs {listed}: a cache holds one pair, and fairseq numbers the "
            "sentences of each pair from 0. Train on one pair (--lang-pairs), or give --teacher, which runs for all"
        )


def _check_gold(task_cfg) -> None:
    for folder in str(task_cfg.data).split(os.pathsep):
        if ((read_manifest(folder) or {}).get("kind")) == DECODED:
            raise KDError(
                f"--kd-partition supervised needs gold targets, and the targets of {folder} are translations by a "
                "teacher (fairseq-kd decode): use --kd-partition unsupervised, or a data-bin with references"
            )
