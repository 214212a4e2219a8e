"""Configurations of fairseq-train, put together from few parsed command lines. Part of `gpu.py`.

fairseq's way from a command line to a configuration takes a second, which a GPU would spend waiting.
"""

import copy
import functools

from omegaconf import OmegaConf, open_dict

from fairseq_kd.core.paths import PACKAGE
from fairseq_kd.models.building import parse

STOCK = "label_smoothed_cross_entropy"
COMMON = """--optimizer adam --clip-norm 1 --label-smoothing 0.1 --num-workers 0 --seed 1
 --required-batch-size-multiple 1"""
PRECISIONS = ("fp32", "fp16", "bf16", "amp")  # all but the first are options of fairseq-train


@functools.cache
def parsed(*words):
    """What fairseq-train makes of a command line."""
    criterion = () if "--criterion" in words else ("--criterion", STOCK)
    return parse([*words, *criterion, *COMMON.split(), "--user-dir", str(PACKAGE)])


def configuration(model: list, criterion: dict, cpu: bool, precision: str = "fp32", distilled=None, **more):
    """A configuration of one's own.

    model: command line with data and --arch. criterion: {"_name": ..., option: value}. distilled: a data-bin, for
    kd_hybrid. more: options by their section, such as checkpoint={"no_save": True}.
    """
    assert precision in PRECISIONS, precision
    cfg = copy.deepcopy(parsed(*map(str, model)))
    with open_dict(cfg):
        if criterion["_name"] != STOCK:
            data = "unused" if distilled is None else str(model[0])
            other = parsed(data, "--max-tokens", "1", *words_of(criterion["_name"], distilled))
            cfg.criterion = copy.deepcopy(other.criterion)
            if distilled is not None:
                cfg.task = copy.deepcopy(other.task)
        if precision != "fp32":
            cfg.common[precision] = True
        cfg.common.cpu = cpu
        for section, values in {"criterion": criterion, **more}.items():
            for name, value in values.items():
                OmegaConf.update(cfg[section], name, value)
    return cfg


def words_of(criterion: str, distilled) -> list[str]:
    """The least that a criterion's command line needs."""
    words = ["--arch", "kd_student", "--criterion", criterion, "--kd-weight", "0"]
    return words if distilled is None else [*words, "--task", "kd_translation", "--distilled", str(distilled)]
