"""Recipes: one corpus, and the options of fairseq-train for a teacher and its students (configs/quickstart/*.yaml).

A recipe uses the names of sections and options that a study uses (`fairseq_kd.study.spec`). Its `signal` is for the
quickstart: a study has its own.
"""

from dataclasses import dataclass, field
from pathlib import Path

from fairseq_kd.core.errors import KDError
from fairseq_kd.core.paths import config_folder
from fairseq_kd.core.yaml_file import check_keys, read_yaml
from fairseq_kd.training.arguments import PRECISION, RESERVED, check_precision

SECTIONS = ("data", "common", "teacher", "student", "kd", "evaluate")
OPTIONAL = ("evaluate",)
SIGNAL = "signal"  # the key that says where the distilled student gets the teacher's distributions; a study's own word
CACHE, ONLINE = "cache", "online"
TRAINED = ("common", "teacher", "student")  # sections with options of fairseq-train
REQUIRED_DATA = ("name", "source-lang", "target-lang", "vocab-size")
DATA_KEYS = (*REQUIRED_DATA, "form", "normalisation")
EVALUATE_KEYS = ("beam", "lenpen", "tokenize", "backend")
# any other option would train the distilled student in another way than the plain one
KD_KEYS = ("kd-weight", "teacher-temperature", "student-temperature", "kd-scale", "teacher-dtype")
# The spelling of version 0.1.0 is still read: users keep such files.
FORMER_SECTIONS = {"corpus": "data", "decoding": "evaluate"}
FORMER_DATA_KEYS = {"source_lang": "source-lang", "target_lang": "target-lang", "vocab_size": "vocab-size"}


@dataclass(frozen=True)
class Recipe:
    """The sections of a recipe. Names of options have no leading dashes."""

    path: Path
    data: dict
    common: dict
    teacher: dict
    student: dict
    kd: dict
    evaluate: dict = field(default_factory=dict)
    signal: str = ONLINE


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
    content = _with_new_keys(path, "the recipe", read_yaml(path, "recipe"), FORMER_SECTIONS)
    required = [name for name in SECTIONS if name not in OPTIONAL]
    check_keys(path, "the recipe", content, (*SECTIONS, SIGNAL), required=required)
    if (signal := content.get(SIGNAL, ONLINE)) not in (CACHE, ONLINE):
        raise KDError(f"{path}: {SIGNAL} has the value {signal!r}; it must be {CACHE} (the teacher runs once) or "
                      f"{ONLINE} (it runs beside the student)")  # fmt: skip
    content["data"] = _with_new_keys(path, "data", content["data"], FORMER_DATA_KEYS)
    check_keys(path, "data", content["data"], DATA_KEYS, required=REQUIRED_DATA)
    check_keys(path, "evaluate", content.get("evaluate", {}), EVALUATE_KEYS)
    check_keys(path, "kd", content["kd"], KD_KEYS)
    for section in TRAINED:  # fairseq's own parser checks the names, see `run.check_trainings`
        check_keys(path, section, content[section], valid=content[section] or ())
        for key, value in content[section].items():
            if key in RESERVED:
                remedy = f"give {PRECISION}" if key == "autocast" else "leave it out"
                raise KDError(f"{path}: {key} in {section} is set by the quickstart itself; {remedy}")
            if key == PRECISION:
                check_precision(f"{path}: {key} in {section}", value)
    if "max-update" not in content["common"] and not all("max-update" in content[s] for s in ("teacher", "student")):
        raise KDError(f"{path}: max-update is needed in common, or in both teacher and student")
    return Recipe(path, **content)


def _with_new_keys(path: Path, where: str, found, former: dict):
    """A mapping whose former keys have their present names, in the same order. Raises KDError when both are given."""
    if not isinstance(found, dict):
        return found  # `check_keys` refuses it
    for old, new in former.items():
        if old in found and new in found:
            raise KDError(f"{path}: {new} is given twice in {where}, also as {old}; take one out")
    return {former.get(key, key): value for key, value in found.items()}
