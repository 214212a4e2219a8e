"""BLEU of the global model after a round."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from fairseq_kd.evaluation.segments import read_segments
from fairseq_kd.evaluation.system import open_system
from fairseq_kd.federated.spec import translate_options
from fairseq_kd.inference.opening import infer_languages
from fairseq_kd.scoring.score import choose_scorer


def score(plan: dict, number: int, checkpoint: Path) -> float | None:
    """BLEU of the checkpoint on the server's data-bin, or None for a round that is not evaluated.

    Every `every`-th round and the last one are evaluated. The score is that of `evaluate`, without its other measures.
    """
    given = plan["spec"]["evaluate"]
    every = given.get("every", 1)
    if every == 0 or (number % every and number != plan["spec"]["rounds"]):
        return None
    subset, options = given.get("subset", "test"), translate_options(given, plan["cpu"])
    sentences, decode, bleu = _open(plan["data"], subset, given.get("tokenize"))
    system = open_system(checkpoint, plan["data"], subset, options, sentences)
    return bleu.corpus_score([decode(line) for line in system.translate()], None).score


@lru_cache(maxsize=1)
def _open(data: str, subset: str, tokenize: str | None) -> tuple[int, Callable[[str], str], object]:
    """(number of references, what joins subwords to text, sacreBLEU's BLEU with the references): once per process."""
    segments = read_segments(data, subset)
    scorer = choose_scorer(infer_languages(data)[1], tokenize, segments.references)
    return len(segments.references), segments.decode, scorer.metric("bleu", [segments.references])
