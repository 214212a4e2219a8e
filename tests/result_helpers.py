"""Result files as `fairseq-kd evaluate` writes them, for comparisons, without a model."""

import json
import random

WORDS = [f"w{number}" for number in range(60)]


def references(count=60, seed=0) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(6, 14))) for _ in range(count)]


def translations(of: list[str], errors: float, seed: int) -> list[str]:
    """The references; each word is replaced with the probability `errors`."""
    draw = random.Random(seed)
    return [" ".join(draw.choice(WORDS) if draw.random() < errors else word for word in line.split()) for line in of]


def write_result(path, translated, gold, seed=1, **other) -> str:
    result = {
        "format": 2,
        "kind": "result",
        "subset": "test",
        "sentences": len(gold),
        "seed": seed,
        "sources_sha256": "of the same sources",
        "hypotheses": translated,
        "references": gold,
    }
    path.write_text(json.dumps(result | other))
    return str(path)
