"""The cache of a teacher as one function with plain arguments."""

import os
from collections.abc import Sequence

from fairseq_kd.cache.make import make_cache
from fairseq_kd.cache.options import CachingOptions
from fairseq_kd.core.paths import listed
from fairseq_kd.core.public import errors_name_arguments
from fairseq_kd.loss.weights import read_weighting


@errors_name_arguments(temperatures="temperature")
def cache_teacher(
    data_bin,
    teacher,
    out,
    *,
    subset: str = "train",
    top_k: int = 16,
    temperatures: Sequence[float] = (1.0,),
    store: str = "compact",
    tail_shapes: int | None = None,
    teacher_weights="equal",
    teacher_weight_temperature: float = 1.0,
    teacher_weights_per: str = "token",
    teacher_dtype: str = "float32",
    teacher_data=None,
    max_tokens: int = 4000,
    cpu: bool = False,
    trust_checkpoint=None,
) -> dict:
    """Write the cache `out` as `fairseq-kd cache` does, or continue it; return its manifest.

    The arguments are the options of the command. teacher: a path, or a list of paths whose mixture is cached.
    teacher_weights: as of the command, or a list of numbers. trust_checkpoint: a path of `teacher` again, if it may
    hold code. Raises KDError when teacher, data and arguments do not fit together.
    """
    if not isinstance(teacher_weights, str):
        teacher_weights = ":".join(str(number) for number in teacher_weights)
    if isinstance(teacher, (list, tuple)):
        teacher = os.pathsep.join(str(path) for path in teacher)
    count = len(listed(teacher))
    weighting = read_weighting(teacher_weights, count, teacher_weight_temperature, teacher_weights_per)
    options = CachingOptions(subset, top_k, tuple(temperatures), store, teacher_dtype, max_tokens, cpu, tail_shapes)
    how = {"teacher_data": teacher_data, "trust": trust_checkpoint, "weighting": weighting}
    return make_cache(data_bin, teacher, out, options, **how)
