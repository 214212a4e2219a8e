"""The cache of a teacher as one function with plain arguments."""

from collections.abc import Sequence

from fairseq_kd.cache.make import make_cache
from fairseq_kd.cache.options import CachingOptions
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.public import errors_name_arguments


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
    teacher_dtype: str = "float32",
    teacher_data=None,
    max_tokens: int = 4000,
    cpu: bool = False,
    trust_checkpoint=None,
) -> dict:
    """Write the cache `out` as `fairseq-kd cache` does, or continue it; return its manifest.

    The arguments are the options of the command. trust_checkpoint: `teacher` again, if it may hold code.
    Raises KDError when teacher, data and arguments do not fit together.
    """
    if trust_checkpoint is not None and str(trust_checkpoint) != str(teacher):
        raise KDError(f"--trust-checkpoint {trust_checkpoint} is not the --teacher {teacher}")
    options = CachingOptions(subset, top_k, tuple(temperatures), store, teacher_dtype, max_tokens, cpu, tail_shapes)
    trust = trust_checkpoint is not None
    return make_cache(data_bin, teacher, out, options, teacher_data=teacher_data, trust=trust)
