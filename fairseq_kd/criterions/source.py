"""The parts of kd_word that depend on student, task and options: implementation, signal source, calls of the task."""

import functools
import os

import torch

from fairseq_kd.artifacts.data_bin import check_trainable
from fairseq_kd.artifacts.manifest import DECODED, read_manifest
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.paths import check_one_folder, listed
from fairseq_kd.criterions.teachers_config import NONE, start_of, teachers_of, weighting_of
from fairseq_kd.inference.device import prefer_attention_without_plans
from fairseq_kd.inference.precision import OFF, check_bfloat16
from fairseq_kd.inference.supported import check_model, output_projection
from fairseq_kd.teacher.cached_mixture import open_caches
from fairseq_kd.teacher.online import OnlineSignalSource, check_top_k
from fairseq_kd.teacher.several import SUPERVISED, MixtureSource, PartitionSource


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


def check_training_data(task_cfg, split: str) -> None:
    """Check the existing files of a subset that a training uses, before fairseq loads them.

    fairseq would stop with an assertion or a KeyError. Raises KDError as `check_trainable`.
    """
    languages = (task_cfg.source_lang, task_cfg.target_lang)
    trained_on = split == getattr(task_cfg, "train_subset", "train")
    folders = str(task_cfg.data).split(os.pathsep)  # fairseq reads all other subsets from the first folder
    for folder in folders if trained_on else folders[:1]:
        check_trainable(folder, split, languages, getattr(task_cfg, "dataset_impl", None), combine=trained_on)


def prepare_training(task_cfg, split: str, autocast: str) -> None:
    """Check what a training needs before fairseq loads this subset, and choose the attention of CUDA.

    autocast: the value of --autocast. Raises KDError as `check_training_data` and `check_bfloat16`.
    """
    check_training_data(task_cfg, split)
    prefer_attention_without_plans()
    if autocast != OFF and not torch.cuda.is_available():
        check_bfloat16(torch.device("cpu"), f"--autocast {autocast}")


def online_source(cfg, task) -> OnlineSignalSource | MixtureSource | PartitionSource | None:
    """The source that runs the teachers, or None if the options do not need it. No file is opened.

    Raises KDError if --kd-top-k is not smaller than the vocabulary.
    """
    if cfg.teacher is None or (cfg.teacher_cache is not None and not cfg.kd_valid):
        return None
    check_top_k(cfg.kd_top_k, task)
    if str(cfg.kd_partition) == NONE:
        return _teachers(cfg, task, cfg.kd_top_k)
    start = _network(cfg, task, start_of(cfg), name="start", option="--kd-start")
    return PartitionSource(
        _teachers(cfg, task, 0), start, str(cfg.kd_partition), str(cfg.kd_partition_per), cfg.kd_top_k
    )


def _teachers(cfg, task, top_k: int) -> OnlineSignalSource | MixtureSource:
    paths = teachers_of(cfg)
    if len(paths) == 1:
        return _network(cfg, task, paths[0], top_k=top_k)
    return MixtureSource(
        [_network(cfg, task, path, name=f"teacher {path}") for path in paths], weighting_of(cfg), top_k
    )


def _network(cfg, task, path: str, **options) -> OnlineSignalSource:
    trusted = [] if cfg.trust_checkpoint is None else listed(cfg.trust_checkpoint)
    dtype = str(cfg.teacher_dtype)
    return OnlineSignalSource(path, task, data=cfg.teacher_data, dtype=dtype, trust=path in trusted, **options)


def training_source(cfg, task, online: OnlineSignalSource | None):
    """The signal source for training, or None if the options name no teacher. online: see `online_source`.

    Raises KDError when the cache cannot be used or the teacher's file cannot be opened.
    """
    if online is not None:
        online.check_file()
    if str(cfg.kd_partition) == SUPERVISED:
        _check_gold(task.cfg)
    if cfg.teacher_cache is None:
        return online
    check_one_folder(task.cfg.data, "--teacher-cache with the data")
    return open_caches(
        cfg.teacher_cache,
        task,
        temperature=cfg.teacher_temperature,
        weighting=weighting_of(cfg),
        stated_teacher=cfg.teacher,
        subset=getattr(task.cfg, "train_subset", "train"),
    )


def _check_gold(task_cfg) -> None:
    for folder in str(task_cfg.data).split(os.pathsep):
        if ((read_manifest(folder) or {}).get("kind")) == DECODED:
            raise KDError(
                f"--kd-partition supervised needs gold targets, and the targets of {folder} are translations by a "
                "teacher (fairseq-kd decode): use --kd-partition unsupervised, or a data-bin with references"
            )


class TaskCalls:
    """Observes two calls of one task: fairseq gives the task, and not the criterion, information that the latter needs.

    - fairseq-train loads its data by `task.load_dataset`, after it has built the criterion. Commands that only read a
      checkpoint (fairseq-validate, fairseq-generate) pass `task_cfg` to it, the options of the finished training.
    - If an epoch does not have enough batches for all ranks, a rank gets a dummy batch. This is the first batch of the
      iterator that was created last, so it is a validation batch after a validation inside the epoch. The trainer
      passes `ignore_grad` to `task.train_step`, which multiplies the loss by 0, and ignores the logged values.
    - The trainer passes the number of updates so far to `task.train_step`, and not to the criterion.

    The task may be one of fairseq's own, so both methods are replaced on this object by methods that call them.
    is_dummy: whether the criterion is being called with a dummy batch.
    update_num: the number of updates before the one for which the criterion is being called.
    """

    def __init__(self, task, before_training_data, around_update):
        """before_training_data(split): called before each load of a subset by a training.

        around_update(model): a context for the forward and backward pass of each batch.
        """
        self.is_dummy, self.update_num = False, 0
        task.load_dataset = self._announced(task.load_dataset, before_training_data)
        task.train_step = self._marked(task.train_step, around_update)

    @staticmethod
    def _announced(load_dataset, before_training_data):
        @functools.wraps(load_dataset)
        def load(*args, **kwargs):
            if "task_cfg" not in kwargs:
                before_training_data(args[0] if args else kwargs["split"])
            return load_dataset(*args, **kwargs)

        return load

    def _marked(self, train_step, around_update):
        @functools.wraps(train_step)
        def step(sample, model, criterion, optimizer, update_num, ignore_grad=False, **kwargs):
            self.is_dummy, self.update_num = ignore_grad, update_num
            try:
                with around_update(model):
                    return train_step(sample, model, criterion, optimizer, update_num, ignore_grad, **kwargs)
            finally:
                self.is_dummy = False

        return step
