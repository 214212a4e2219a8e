"""Recipes: configs/quickstart/*.yaml, the options of each fairseq-train run by their own names."""

import difflib
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from fairseq_kd.errors import KDError
from fairseq_kd.resources import config_folder

CORPUS_KEYS = ("name", "source_lang", "target_lang", "vocab_size")
DECODING_KEYS = ("beam", "lenpen")
# set by the quickstart itself
RESERVED = (
    *("save-dir", "seed", "criterion", "teacher", "user-dir", "source-lang", "target-lang", "total-num-update"),
    *("required-batch-size-multiple", "no-epoch-checkpoints", "distributed-world-size", "cpu"),
    *("num-workers", "log-format", "log-interval"),
)
# anything else here would train the distilled student in another way than the plain one
KD_KEYS = ("kd-weight", "teacher-temperature", "student-temperature", "kd-scale", "teacher-dtype")


@dataclass(frozen=True)
class Recipe:
    """A corpus and the fairseq-train options of teacher and student; option names are without dashes in front."""

    corpus: dict
    common: dict
    teacher: dict
    student: dict
    kd: dict
    decoding: dict = field(default_factory=dict)


def available_recipes() -> list[str]:
    """The names that `--data` takes."""
    return sorted(path.stem for path in _recipes())


def find_recipe(name: str) -> Path:
    """The file of one of `available_recipes`."""
    return next(path for path in _recipes() if path.stem == name)


def _recipes() -> list[Path]:
    return [path for folder in ("quickstart", "datasets") for path in (config_folder() / folder).glob("*.yaml")]


def load_recipe(path) -> Recipe:
    """Read and check a recipe. Raises KDError that names the key at fault and the nearest valid one."""
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise KDError(f"recipe {path} cannot be read: {error}") from error
    sections = tuple(Recipe.__dataclass_fields__)
    _check_keys(path, "the recipe", content, sections, required=sections[:-1])
    _check_keys(path, "corpus", content["corpus"], (*CORPUS_KEYS, "form"), required=CORPUS_KEYS)
    _check_keys(path, "decoding", content.get("decoding", {}), DECODING_KEYS)
    _check_keys(path, "kd", content["kd"], KD_KEYS)
    for section in ("common", "teacher", "student"):
        _check_keys(path, section, content[section], valid=content[section] or ())
        for key in content[section]:
            if key in RESERVED:
                raise KDError(f"{path}: {key} in {section} is set by the quickstart itself")
    if "max-update" not in content["common"] and not all("max-update" in content[s] for s in ("teacher", "student")):
        raise KDError(f"{path}: max-update is needed in common, or in both teacher and student")
    return Recipe(**content)


def _check_keys(path, where: str, found, valid, required=()) -> None:
    if not isinstance(found, dict):
        raise KDError(f"{path}: {where} must be a mapping, found {type(found).__name__}")
    for key in found:
        if key not in valid:
            nearest = difflib.get_close_matches(str(key), valid, n=1, cutoff=0.0)
            raise KDError(f"{path}: unknown key {key!r} in {where}; the nearest valid one is {nearest[0]!r}")
    for key in required:
        if key not in found:
            raise KDError(f"{path}: {where} lacks {key!r}")


def to_arguments(options: dict) -> list[str]:
    """{"lr": 0.1, "cpu": True} -> ["--lr", "0.1", "--cpu"]; False leaves a flag out."""
    arguments = []
    for name, value in options.items():
        if value is True:
            arguments.append(f"--{name}")
        elif value is not False:
            arguments += [f"--{name}", str(value)]
    return arguments
