"""Where kd_word's signal comes from, by its options, and whether the data are such that it can.

Which of the two computations of the loss a student allows.
"""

import os

from fairseq_kd.artifacts.data_bin import check_trainable
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.paths import check_one_folder
from fairseq_kd.inference.supported import check_model, output_projection
from fairseq_kd.teacher.cached import CachedSignalSource
from fairseq_kd.teacher.online import OnlineSignalSource


def choose_implementation(model, cfg) -> str:
    """ "fused" or "reference": what the student's architecture allows and --kd-implementation asks for.

    Raises KDError for a student that is not autoregressive or has an adaptive softmax, and when what is asked for is
    not possible.
    """
    check_model(model, "the student")
    _refuse_adaptive_softmax(model)
    projection, asked = output_projection(model), str(cfg.kd_implementation)
    fits = projection is not None
    needs = asked == "fused" or str(cfg.kd_matmul_dtype) != "same"
    if needs and not fits:
        raise KDError(
            "--kd-implementation fused and --kd-matmul-dtype do not fit: the student has no output projection "
            "that can be applied by itself (it is not one of fairseq's transformers, or it is wrapped with "
            "--find-unused-parameters or fully sharded); leave them out"
        )
    if fits and str(cfg.kd_matmul_dtype) == str(projection.dtype).removeprefix("torch."):
        raise KDError(
            f"--kd-matmul-dtype {cfg.kd_matmul_dtype} has no effect: the student itself has that type (--bf16)"
        )
    return "fused" if fits and asked != "reference" else "reference"


def _refuse_adaptive_softmax(model) -> None:
    if getattr(getattr(model, "decoder", None), "adaptive_softmax", None) is not None:
        raise KDError(
            "the student has an adaptive softmax (--adaptive-softmax-cutoff), which gives no distribution over the "
            "whole vocabulary to compare with the teacher's; train it without"
        )


def check_training_data(task_cfg, split: str) -> None:
    """Look at the files of a subset that a training uses, as far as they are there, before fairseq loads them.

    fairseq would stop with an assertion or a KeyError. Raises KDError for what `check_trainable` refuses.
    """
    languages = (task_cfg.source_lang, task_cfg.target_lang)
    trained_on = split == getattr(task_cfg, "train_subset", "train")
    folders = str(task_cfg.data).split(os.pathsep)  # others than the training set are read from the first
    for folder in folders if trained_on else folders[:1]:
        check_trainable(folder, split, languages, getattr(task_cfg, "dataset_impl", None), combine=trained_on)


def online_source(cfg, task) -> OnlineSignalSource | None:
    """The teacher that runs, None where the options ask for none. No file is opened.

    Raises KDError for a --kd-top-k that leaves nothing out.
    """
    if cfg.teacher is None or (cfg.teacher_cache is not None and not cfg.kd_valid):
        return None
    return OnlineSignalSource(
        cfg.teacher,
        task,
        data=cfg.teacher_data,
        dtype=str(cfg.teacher_dtype),
        trust=cfg.trust_checkpoint is not None,
        top_k=cfg.kd_top_k,
    )


def training_source(cfg, task, online: OnlineSignalSource | None):
    """What answers in training, None where no signal is asked for. online: the teacher that runs, if one does.

    Raises KDError when the cache cannot be used or the teacher's file cannot be opened.
    """
    if online is not None:
        online.check_file()
    if cfg.teacher_cache is None:
        return online
    check_one_folder(task.cfg.data, "--teacher-cache with the data")
    return CachedSignalSource(
        cfg.teacher_cache,
        task,
        temperature=cfg.teacher_temperature,
        stated_teacher=cfg.teacher,
        subset=getattr(task.cfg, "train_subset", "train"),
    )
