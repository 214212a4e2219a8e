"""CPU time and peak memory of `fairseq-kd prepare text` on made-up text of any size.

python benchmarks/prepare_scale.py FOLDER --pairs 200000 [options of fairseq-kd prepare]

The text is Zipfian: 60,000 different words per language, 25 words per sentence, the words of the target are the words
of the source one by one. What FOLDER holds already is used again.
"""

import argparse
import os
import resource
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np

TYPES, WORDS, EVALUATION_PAIRS, PAIRS_AT_ONCE = 60_000, 25, 1_000, 10_000
SYLLABLES = {
    "xa": ["ba", "ce", "di", "fo", "gu", "la", "me", "ni", "po", "ru", "sa", "te", "vi", "wo", "zu"],
    "xb": ["bra", "cle", "dri", "flo", "gru", "lam", "men", "nip", "pot", "rus", "sat", "tev", "viw", "wox", "zul"],
}


def word(syllables: list[str], number: int) -> str:
    """A word of its own for each number."""
    parts = []
    while True:
        parts.append(syllables[number % len(syllables)])
        number //= len(syllables)
        if not number:
            return "".join(parts)


def write_corpus(folder: Path, pairs: int) -> None:
    """Write train, valid and test, each under a temporary name until it is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    words = {lang: np.array([word(s, n) for n in range(TYPES)], dtype=object) for lang, s in SYLLABLES.items()}
    weights = 1 / np.arange(1, TYPES + 1)
    bounds = np.cumsum(weights / weights.sum())
    generator = np.random.default_rng(1)
    for subset, count in (("train", pairs), ("valid", EVALUATION_PAIRS), ("test", EVALUATION_PAIRS)):
        parts = {lang: folder / f".{subset}.{lang}.part" for lang in words}
        with ExitStack() as stack:
            files = {lang: stack.enter_context(open(path, "w")) for lang, path in parts.items()}
            for start in range(0, count, PAIRS_AT_ONCE):
                draws = generator.random((min(PAIRS_AT_ONCE, count - start), WORDS))
                numbers = np.minimum(np.searchsorted(bounds, draws), TYPES - 1)
                for lang, file in files.items():
                    file.writelines(" ".join(line) + "\n" for line in words[lang][numbers])
        for lang, path in parts.items():
            os.replace(path, folder / f"{subset}.{lang}")


def main() -> None:
    """Make the text, prepare it in a process of its own, print what that took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", type=int, default=200_000)
    args, further = parser.parse_known_args()
    raw = args.folder / f"raw-{args.pairs}"
    if not (raw / "test.xb").is_file():
        write_corpus(raw, args.pairs)
    out = args.folder / f"data-bin-{args.pairs}{''.join(further)}"
    command = ["prepare", "text", "--raw", raw, "-s", "xa", "-t", "xb", "--out", out, *further]
    subprocess.run([sys.executable, "-m", "fairseq_kd.cli.main", *map(str, command)], check=True)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"{args.pairs:,} pairs {' '.join(further)}: {used.ru_utime + used.ru_stime:.0f} CPU seconds, "
        f"peak {used.ru_maxrss / 1000:.0f} MB (of the largest process)"
    )


if __name__ == "__main__":
    main()
