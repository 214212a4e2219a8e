"""BLEU of the global model after a round."""

from pathlib import Path

from fairseq_kd.evaluation.evaluate import evaluate
from fairseq_kd.federated.spec import translate_options


def score(plan: dict, number: int, checkpoint: Path) -> float | None:
    """BLEU of the checkpoint on the server's data-bin, or None for a round that is not evaluated.

    Every `every`-th round and the last one are evaluated.
    """
    given = plan["spec"]["evaluate"]
    every = given.get("every", 1)
    if every == 0 or (number % every and number != plan["spec"]["rounds"]):
        return None
    options = translate_options(given, plan["cpu"])
    subset, tokenize = given.get("subset", "test"), given.get("tokenize")
    return evaluate(plan["data"], checkpoint, subset, options, tokenize=tokenize)["bleu"]["score"]
