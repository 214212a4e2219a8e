"""Trainings that differ in options of the criterion only. fairseq parses a command line in half a second, so once."""

import copy
import functools

from fairseq import tasks, utils
from helpers import parse

KD = ("--criterion", "kd_word", "--label-smoothing", "0.1", "--kd-weight", "0.6", "--dropout", "0.1")
parsed = functools.cache(parse)


def build_with(data_bin, **options):
    """(cfg, task, model, criterion) as `helpers.build`, with these options of the criterion. dropout: of the model."""
    cfg = copy.deepcopy(parsed(data_bin, *KD))
    cfg.model.dropout = options.pop("dropout", 0.1)
    for name, value in options.items():
        setattr(cfg.criterion, name, value if isinstance(value, float | bool) else str(value))
    utils.set_torch_seed(cfg.common.seed)
    task = tasks.setup_task(cfg.task)
    model = task.build_model(cfg.model)
    return cfg, task, model, task.build_criterion(cfg.criterion)
