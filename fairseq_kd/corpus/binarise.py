"""Binarisation by stock fairseq-preprocess, called in this process."""

import logging
from pathlib import Path

import numpy as np

TOKENS_AT_ONCE = 1 << 22


def binarise(
    prefixes: dict, source_lang, target_lang, folder, *, joint: bool, dictionaries=None, workers: int = 1
) -> None:
    """Write data-bin files of segmented text into `folder`.

    prefixes: fairseq subset name ("train", "valid", "test", "test1", ...) -> path prefix of segmented text, so that
    prefix.source_lang and prefix.target_lang exist. joint: one dictionary for both languages.
    dictionaries: None to build them from the training text, else language -> path of a dictionary to use.
    """
    from fairseq import options
    from fairseq_cli import preprocess

    arguments = ["--source-lang", source_lang, "--target-lang", target_lang, "--destdir", str(folder)]
    arguments += ["--workers", str(workers)]
    if "train" in prefixes:
        arguments += ["--trainpref", str(prefixes["train"])]
    for subset in ("valid", "test"):
        # fairseq names the subsets after their place in the list: test, test1, test2, ...
        names = sorted((n for n in prefixes if n.rstrip("0123456789") == subset), key=lambda n: (len(n), n))
        listed = [str(prefixes[name]) for name in names]
        if listed:
            arguments += [f"--{subset}pref", ",".join(listed)]
    if dictionaries is not None:
        arguments += ["--srcdict", str(dictionaries[source_lang])]
        arguments += [] if joint else ["--tgtdict", str(dictionaries[target_lang])]
    if joint:
        arguments.append("--joined-dictionary")
    logger = logging.getLogger("fairseq_cli.preprocess")
    handlers, propagate = list(logger.handlers), logger.propagate
    logger.propagate = False  # its report goes to preprocess.log, ours to the manifest
    try:
        preprocess.main(options.get_preprocessing_parser().parse_args(arguments))
    finally:
        for handler in set(logger.handlers) - set(handlers):
            logger.removeHandler(handler)
            handler.close()
        logger.propagate = propagate
    (Path(folder) / "preprocess.log").unlink(missing_ok=True)


def count_unknown(folder, subset: str, source_lang: str, target_lang: str) -> dict[str, int]:
    """Language -> number of tokens of a binarised subset that were not in the dictionary."""
    from fairseq.data import Dictionary
    from fairseq.data.indexed_dataset import best_fitting_int_dtype

    counts = {}
    for lang in (source_lang, target_lang):
        dictionary = Dictionary.load(str(Path(folder) / f"dict.{lang}.txt"))
        path = Path(folder) / f"{subset}.{source_lang}-{target_lang}.{lang}.bin"
        dtype = best_fitting_int_dtype(len(dictionary))
        tokens = np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.empty(0, dtype)
        blocks = (tokens[start : start + TOKENS_AT_ONCE] for start in range(0, len(tokens), TOKENS_AT_ONCE))
        counts[lang] = sum(int(np.count_nonzero(block == dictionary.unk())) for block in blocks)
    return counts
