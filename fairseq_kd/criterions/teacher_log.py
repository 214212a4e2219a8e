"""What several teachers add to the log: the mean weight of each one, and the share of the tokens of each source."""

import torch
from fairseq.logging import metrics

from fairseq_kd.loss.weights import LOGGED

TOKENS = "teacher_tokens"  # over which the sums are
SHARES = ("from_teacher", "from_start")  # percent of the tokens


def teacher_log(source, zero: torch.Tensor) -> dict:
    """The sums over tokens that the source of a batch's signal has for the log; {} for most sources.

    zero: 0-d, on the device of the batch; values have its device, so that all ranks log the same kinds of values.
    """
    sums = getattr(source, "sums", {})
    return {name: value.to(zero) for name, value in sums.items()} | ({TOKENS: source.tokens} if sums else {})


def reduce_teacher_log(logging_outputs) -> None:
    """Log the values of `teacher_log` per token, gold or sampled."""
    tokens = sum(log.get(TOKENS, 0) for log in logging_outputs)
    if tokens == 0:
        return
    names = {name: None for log in logging_outputs for name in log if name.startswith(LOGGED) or name in SHARES}
    for name in names:
        mean = sum(log.get(name, 0) for log in logging_outputs) / tokens
        metrics.log_scalar(name, 100 * mean if name in SHARES else mean, tokens, round=3)
