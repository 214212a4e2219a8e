"""Data-bins as stock fairseq-preprocess makes them, and every command that takes one."""

from pathlib import Path

from fairseq import options
from fairseq_cli import preprocess

from fairseq_kd.inference.opening import open_data

LANGUAGES = ("qaa", "qab")
COUNTS = {"train": 40, "valid": 10, "test": 10}


def write_text(data_bin, folder) -> None:
    """The first sentences of each subset of `data_bin`, segmented: folder/train.qaa, ..."""
    for subset, count in COUNTS.items():
        task = open_data(data_bin, LANGUAGES, subset)
        dataset = task.dataset(subset)
        for lang, side, dictionary in zip(
            LANGUAGES,
            (dataset.src, dataset.tgt),
            (task.source_dictionary, task.target_dictionary),
            strict=True,
        ):
            lines = [" ".join(dictionary[token] for token in side[n][:-1]) for n in range(count)]
            (Path(folder) / f"{subset}.{lang}").write_text("".join(f"{line}\n" for line in lines))


def binarise(text, out, dictionary, *more) -> Path:
    """Run fairseq-preprocess in this process; return its output folder."""
    words = ["--source-lang", LANGUAGES[0], "--target-lang", LANGUAGES[1], "--destdir", str(out)]
    words += ["--joined-dictionary", "--srcdict", str(dictionary)]
    for subset in COUNTS:
        words += [f"--{subset}pref", f"{text}/{subset}"]
    preprocess.main(options.get_preprocessing_parser().parse_args([*words, *more]))
    return Path(out)


def commands(data_bin, teacher, text, out) -> dict[str, list[str]]:
    """Name -> words of each command that reads a subset of a data-bin made by fairseq-preprocess."""
    plain = ["--post-process", "none", "--cpu", "--max-len-b", "5"]
    test, valid = (["--reference", f"{text}/{subset}.qab", *plain] for subset in ("test", "valid"))
    words = {
        "cache": [data_bin, "--teacher", teacher, "--out", out, "--top-k", "4", "--cpu"],
        "decode": [data_bin, "--teacher", teacher, "--out", out, "--backend", "fairseq", "--cpu"],
        "mix": [data_bin, data_bin, "--out", out],
        "noise": ["--data-bin", data_bin, "--out", out, "--delete", "0.2", "--level", "subword"],
        "evaluate": [data_bin, "--checkpoint", teacher, *test],
        "select-teacher": [data_bin, "--checkpoints", Path(teacher).parent, "--by", "low-loss", "--out", out, *valid],
        "export": [teacher, "--to", "ctranslate2", "--data", data_bin, "--out", out, *test],
    }
    return {name: [name, *map(str, listed)] for name, listed in words.items()}
