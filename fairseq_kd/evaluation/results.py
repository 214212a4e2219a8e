"""Reading result files of `fairseq-kd evaluate`, and whether several can be compared."""

from fairseq_kd.artifacts.records import DamagedRecord, read_record
from fairseq_kd.core.errors import KDError
from fairseq_kd.scoring.tokenizers import STANDARD, TOKENIZERS

FORMAT = 2  # of what `evaluate` returns


def read_result(path) -> dict:
    """A result with hypotheses, references and `tokenize` (13a in older files). Raises KDError for any other file."""
    try:
        result = read_record(path, "run `fairseq-kd evaluate` again")
    except DamagedRecord as error:
        raise KDError(f"{path} cannot be read as a result of `fairseq-kd evaluate --out`: {error.reason}") from error
    if result is None:
        raise KDError(f"{path} cannot be read as a result of `fairseq-kd evaluate --out`: it does not exist")
    if result.get("kind") != "result":
        raise KDError(f"{path} is not a result: give files that `fairseq-kd evaluate --out` wrote")
    if result.get("format") != FORMAT:
        raise KDError(
            f"{path} has format {result.get('format')!r}, this fairseq-kd compares format {FORMAT} (format 1 holds no "
            "references): run `fairseq-kd evaluate` again"
        )
    result.setdefault("tokenize", STANDARD)  # what all files were scored by that do not say it
    _check_segments(path, result)
    return result


def _check_segments(path, result: dict) -> None:
    lists = [result.get(name) for name in ("hypotheses", "references")]
    if not all(isinstance(lines, list) for lines in lists) or not {"seed", "subset", "sources_sha256"} <= set(result):
        raise KDError(f"{path} is damaged: entries are missing; run `fairseq-kd evaluate` again")
    is_text = all(isinstance(line, str) for lines in lists for line in lines)
    if not is_text or not isinstance(result["seed"], int | None):
        raise KDError(
            f"{path} is damaged: a hypothesis or reference is no text, or the seed no number; run `fairseq-kd "
            "evaluate` again"
        )
    if result["tokenize"] not in TOKENIZERS:
        raise KDError(f"{path} was scored by the tokeniser {result['tokenize']!r}, which this fairseq-kd does not know")
    hypotheses, references = map(len, lists)
    if hypotheses != references or not references:
        raise KDError(
            f"{path} is damaged: it has {hypotheses} hypotheses for {references} references; run `fairseq-kd "
            "evaluate` again"
        )


def check_same_segments(paths: list, results: list[dict], metric: str) -> None:
    """Raises KDError when results are of other segments than the first: a paired test would pair what is not a pair.

    metric: that is compared; chrF has no words, so that the tokeniser does not matter.
    """
    first, why = results[0], "paired tests need the same segments; evaluate all systems on the same subset"
    for path, result in zip(paths[1:], results[1:], strict=True):
        if metric != "chrf" and result["tokenize"] != first["tokenize"]:
            raise KDError(
                f"{path} was scored by the tokeniser {result['tokenize']}, {paths[0]} by {first['tokenize']}: their "
                "BLEU and TER count other words; evaluate all systems with the same --tokenize"
            )
        counts = len(result["references"]), len(first["references"])
        if counts[0] != counts[1]:
            raise KDError(f"{path} has {counts[0]} segments, {paths[0]} has {counts[1]}: {why}")
        pairs = zip(result["references"], first["references"], strict=True)
        other = [number for number, (a, b) in enumerate(pairs, 1) if a != b]
        if other:
            raise KDError(
                f"{path} has other references than {paths[0]} ({len(other)} of {counts[0]}, the first is segment "
                f"{other[0]}): {why}"
            )
        if result["sources_sha256"] != first["sources_sha256"]:
            raise KDError(
                f"{path} was translated from another source text than {paths[0]}, with the same references (noised, or "
                f"prepared in another way): {why}"
            )
