"""Options of fairseq-train as they stand in YAML: their own names without dashes in front."""

import difflib

from fairseq_kd.core.errors import KDError
from fairseq_kd.core.paths import PACKAGE

# set by whatever starts the training
RESERVED = (
    *("save-dir", "seed", "criterion", "teacher", "user-dir", "source-lang", "target-lang", "total-num-update"),
    *("required-batch-size-multiple", "update-epoch-batch-itr", "no-epoch-checkpoints", "distributed-world-size"),
    *("cpu", "num-workers", "log-format", "log-interval"),
)


def nearest(name, valid) -> str:
    """The entry of `valid`, which is not empty, that looks most like `name`."""
    return difflib.get_close_matches(str(name), [str(entry) for entry in valid], n=1, cutoff=0.0)[0]


def check_keys(path, where: str, found, valid, required=()) -> None:
    """Raises KDError for an unknown key (naming the nearest) or a missing one in the section `where` of the file."""
    if not isinstance(found, dict):
        what = "nothing" if found is None else type(found).__name__
        raise KDError(f"{path}: {where} must be a mapping, found {what}")
    for key in found:
        if key not in valid:
            raise KDError(f"{path}: unknown key {key!r} in {where}; the nearest valid one is {nearest(key, valid)!r}")
    for key in required:
        if key not in found:
            raise KDError(f"{path}: {where} lacks {key!r}")


def to_arguments(options: dict) -> list[str]:
    """{"lr": 0.1, "cpu": True} -> ["--lr", "0.1", "--cpu"]; False leaves a flag out, a list gives several words."""
    arguments = []
    for name, value in options.items():
        if value is True:
            arguments.append(f"--{name}")
        elif isinstance(value, list):
            arguments += [f"--{name}", *map(str, value)]
        elif value is not False:
            arguments += [f"--{name}", str(value)]
    return arguments


def training_arguments(data_bin, source_lang, target_lang, options: dict, *, cpu=False, user_dir=PACKAGE) -> list[str]:
    """The arguments of fairseq-train for one model, without --save-dir; options has max-update, seed, criterion."""
    options = {"user-dir": user_dir, "source-lang": source_lang, "target-lang": target_lang} | options
    if options.get("lr-scheduler") == "polynomial_decay":
        options["total-num-update"] = options["max-update"]
    # fairseq's default of 8 silently drops up to 7 of the longest sentences, of the validation set too
    options |= {"required-batch-size-multiple": 1, "no-epoch-checkpoints": True, "distributed-world-size": 1}
    # fairseq keeps the batches of the epoch in which a process begins, so one that was continued would have others
    options["update-epoch-batch-itr"] = "True"
    options |= {"cpu": cpu, "num-workers": 0, "log-format": "json", "log-interval": 10}
    return [str(data_bin), *to_arguments(options)]
