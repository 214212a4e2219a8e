"""What kd_word and the criterions that are derived from it log, from the logging outputs of the batches."""

import math

from fairseq.logging import metrics

from fairseq_kd.loss.objective import Losses


def word_output(sample, sample_size, tokens: int, loss, sums: Losses, accuracy: bool) -> dict:
    """The logging output of a batch. tokens: number of positions that `sums` is over. accuracy: --report-accuracy."""
    logging_output = {
        "loss": loss.data,
        "nll_loss": sums.nll.data,
        "ntokens": sample["ntokens"],
        "nsentences": sample["target"].size(0),
        "sample_size": sample_size,
    }
    if sums.kd is not None:
        logging_output |= {"kd_loss": sums.kd.data, "n_agreed": sums.agreed.data, "kd_tokens": tokens}
    if accuracy:
        logging_output |= {"n_correct": sums.correct.data, "total": tokens}
    return logging_output


def of_gold_tokens(logging_outputs) -> list[dict]:
    """The logging outputs with `ntokens` gold tokens, over which fairseq divides nll_loss; [] if there are none.

    Then there is no nll_loss, and the loss alone is logged.
    """
    gold = [log | {"ntokens": log["ntokens"] - log.get("sampled_tokens", 0)} for log in logging_outputs]
    if sum(log["ntokens"] for log in gold) > 0:
        return gold
    size = sum(log["sample_size"] for log in logging_outputs)
    metrics.log_scalar("loss", _bits(logging_outputs, "loss", size), size, round=3)
    return []


def log_words(logging_outputs) -> None:
    """Log kd_loss (bits per gold token) and agreement (percent of the gold tokens), and the values of samples.

    The latter are sampled_tokens (percent of all target tokens), sampled_length (tokens with EOS per sample) and
    sampled_kd_loss (bits per sampled token). A value over no tokens is not logged.
    """
    if (tokens := _sum(logging_outputs, "kd_tokens")) > 0:
        agreed = _sum(logging_outputs, "n_agreed")
        metrics.log_scalar("kd_loss", _bits(logging_outputs, "kd_loss", tokens), tokens, round=3)
        metrics.log_scalar("agreement", 100 * agreed / tokens, tokens, round=2)
    if not any("sampled_tokens" in log for log in logging_outputs):
        return
    sampled, every = _sum(logging_outputs, "sampled_tokens"), _sum(logging_outputs, "ntokens")
    metrics.log_scalar("sampled_tokens", 100 * sampled / every, every, round=2)
    if (sentences := _sum(logging_outputs, "sampled_sentences")) > 0:
        metrics.log_scalar("sampled_length", sampled / sentences, sentences, round=2)
        metrics.log_scalar("sampled_kd_loss", _bits(logging_outputs, "sampled_kd_loss", sampled), sampled, round=3)


def _sum(logging_outputs, name: str):
    return sum(log.get(name, 0) for log in logging_outputs)


def _bits(logging_outputs, name: str, count):
    return _sum(logging_outputs, name) / count / math.log(2)
