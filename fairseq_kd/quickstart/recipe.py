"""Recipes: configs/quickstart/*.yaml, the options of each fairseq-train run by their own names."""

from dataclasses import dataclass, field
from pathlib import Path

from fairseq_kd.core.errors import KDError
from fairseq_kd.core.paths import config_folder
from fairseq_kd.core.yaml_file import read_yaml
from fairseq_kd.training.options import RESERVED, check_keys

CORPUS_KEYS = ("name", "source_lang", "target_lang", "vocab_size")
DECODING_KEYS = ("beam", "lenpen", "tokenize")
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
    content = read_yaml(path, "recipe")
    sections = tuple(Recipe.__dataclass_fields__)
    check_keys(path, "the recipe", content, sections, required=sections[:-1])
    check_keys(path, "corpus", content["corpus"], (*CORPUS_KEYS, "form", "normalisation"), required=CORPUS_KEYS)
    check_keys(path, "decoding", content.get("decoding", {}), DECODING_KEYS)
    check_keys(path, "kd", content["kd"], KD_KEYS)
    for section in ("common", "teacher", "student"):
        check_keys(path, section, content[section], valid=content[section] or ())
        for key in content[section]:
            if key in RESERVED:
                raise KDError(f"{path}: {key} in {section} is set by the quickstart itself")
    if "max-update" not in content["common"] and not all("max-update" in content[s] for s in ("teacher", "student")):
        raise KDError(f"{path}: max-update is needed in common, or in both teacher and student")
    return Recipe(**content)
