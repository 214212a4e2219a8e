"""Specs of studies: YAML files such as configs/studies/*.yaml, read and checked before anything runs.

A spec has sections (`fairseq_kd.study.sections`), and `factors`, `exclude` and `claims`, which modules of their own
read.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from fairseq_kd.core.errors import KDError, prefixed_errors
from fairseq_kd.core.paths import check_data_bin, config_folder
from fairseq_kd.core.yaml_file import check_keys, check_text, nearest, read_yaml
from fairseq_kd.corpus import synthetic
from fairseq_kd.corpus.corpora import CORPORA
from fairseq_kd.quickstart.recipe import SECTIONS as RECIPE_SECTIONS
from fairseq_kd.quickstart.recipe import TRAINED, available_recipes, find_recipe, load_recipe
from fairseq_kd.scoring.tokenizers import STANDARD, choose_tokenizer
from fairseq_kd.study.sections import (
    AGREEMENT,
    BUDGETS,
    EVALUATE_DEFAULTS,
    EXISTING,
    NOISE_DEFAULTS,
    SECTIONS,
    SOURCE_TEXT,
    check_files,
    check_noise_level,
    check_section,
    check_seed,
    check_shares,
    check_updates,
)
from fairseq_kd.study.short_forms import with_short_forms

KEYS = (*SECTIONS, "question", "factors", "exclude", "claims")


@dataclass(frozen=True)
class Spec:
    """A checked spec. sections: name -> options, the recipe merged in. exclude and claims: as written in the file.

    written: names of the sections that the file itself has, without the sections that only the recipe has, and
    SECTION.OPTION for their options. question: what the study asks, one line for the report; no part of any key.
    """

    path: Path
    sections: dict
    factors: dict
    exclude: list
    claims: list
    written: tuple
    question: str | None = None

    @property
    def name(self) -> str:
        """The name of the study: the name of the file without .yaml."""
        return self.path.stem


def shipped_specs(folder: str = "studies") -> list[str]:
    """Names of the specs that come with fairseq_kd, in this folder of configs/."""
    return sorted(path.stem for path in (config_folder() / folder).glob("*.yaml"))


def spec_path(name, folder: str = "studies") -> Path:
    """A file, or a shipped spec by its name. Raises KDError when it is neither."""
    shipped = config_folder() / folder / f"{name}.yaml"
    if Path(name).is_file():
        return Path(name)
    if shipped.is_file():
        return shipped
    raise KDError(f"there is no spec {name}: give a file, or one of {', '.join(shipped_specs(folder))}")


def load_spec(path, recipe=None, raw=None) -> Spec:
    """Read and check a spec.

    recipe: name or file, replaces the recipe of the spec. raw: folder of the raw files, replaces `raw` in data.
    Raises KDError that names the key at fault and the nearest valid one.
    """
    path = Path(path)
    content = read_yaml(path, "spec")
    check_keys(path, "the spec", content, KEYS, required=("factors",))
    sections = read_sections(path, content, recipe, raw)
    return Spec(
        path,
        sections,
        with_short_forms(path, content["factors"]),
        content.get("exclude", []),
        content.get("claims", []),
        _written(content),
        _question(path, content),
    )


def _written(content: dict) -> tuple:
    sections = {name: content[name] for name in SECTIONS if isinstance(content.get(name), dict)}
    return (*content, *(f"{name}.{key}" for name, options in sections.items() for key in options))


def _question(path: Path, content: dict) -> str | None:
    question = content.get("question")
    if "question" in content and not (isinstance(question, str) and question.strip() and "\n" not in question.strip()):
        raise KDError(f"{path}: question must be one line of text, found {question!r}: put it in quotes")
    return question and question.strip()


def read_sections(path: Path, content: dict, recipe=None, raw=None) -> dict:
    """Section -> options: the recipe, changed by the sections of the spec, and checked. See `load_spec`."""
    recipe = recipe or content.get("recipe")
    sections = _recipe_sections(path, recipe) if recipe else {}
    for name in SECTIONS[1:]:
        given = content.get(name, {})
        if name == "budget" and not isinstance(given, dict) and given is not None:
            given = dict.fromkeys(BUDGETS, given)
        check_section(path, name, given)
        replaces = name == "data" and "data-bin" in given  # the data of the recipe
        sections[name] = dict(given) if replaces else sections.get(name, {}) | given
    if raw is not None:
        sections["data"]["raw"] = str(raw)
    _complete_data(path, sections["data"])
    _check_existing(path, content)
    sections["noise"] = NOISE_DEFAULTS | sections["noise"]
    sections["evaluate"] = EVALUATE_DEFAULTS | sections["evaluate"]
    for who, updates in sections["budget"].items():
        check_updates(path, f"{who} in budget", updates)
    if "seed" in sections["teacher"]:
        check_seed(path, "seed in teacher", sections["teacher"]["seed"])
    check_shares(path, sections["noise"])
    _check_evaluate(path, sections["evaluate"])
    _complete_tokenizer(path, sections["evaluate"], sections["data"]["target-lang"])
    return sections


def _recipe_sections(path: Path, recipe) -> dict:
    """The sections of a recipe as sections of a spec; max-update becomes the budget."""
    check_text(path, "recipe", recipe)
    known = available_recipes()
    if recipe not in known and not Path(recipe).exists():
        raise KDError(f"recipe {recipe} cannot be read: there is no such file; the nearest known recipe is "
                      f"{nearest(recipe, known)!r}")  # fmt: skip
    found = load_recipe(find_recipe(recipe) if recipe in known else recipe)
    sections = {name: dict(getattr(found, name)) for name in RECIPE_SECTIONS} | {"budget": {}}
    for name in TRAINED:
        if "max-update" in sections[name]:
            updates = sections[name].pop("max-update")
            sections["budget"] |= dict.fromkeys(BUDGETS if name == "common" else [name], updates)
    return sections


def _check_existing(path, content: dict) -> None:
    """Raises KDError for values that are no paths, and for options without an effect beside what exists."""
    for setting, without in EXISTING.items():
        section, _, key = setting.partition(".")
        given = content.get(section) or {}
        if key not in given:
            continue
        check_text(path, f"{key} in {section}", given[key])
        if others := [name for name in given if name != key]:
            raise KDError(
                f"{path}: {others[0]} in {section} has no effect beside {key}: the study {without}; leave it out"
            )
    section, _, key = SOURCE_TEXT.partition(".")
    if key in (content.get(section) or {}):
        check_files(path, f"{key} in {section}", content[section][key])


def _complete_data(path, data: dict) -> None:
    if "data-bin" in data:
        _complete_data_bin(path, data)
        return
    check_keys(path, "data", data, valid=tuple(data), required=("name",))
    if data["name"] not in CORPORA:
        raise KDError(f"{path}: data has the name {data['name']!r}; it must be one of {', '.join(CORPORA)}")
    if data["name"] == "synthetic":
        data.setdefault("source-lang", synthetic.SOURCE)
        data.setdefault("target-lang", synthetic.TARGET)
    check_keys(path, "data", data, valid=tuple(data), required=("source-lang", "target-lang"))
    for key in ("source-lang", "target-lang", "raw"):
        if key in data:
            check_text(path, f"{key} in data", data[key])
    if "raw" in data:
        data["raw"] = os.path.abspath(data["raw"])  # stages run in another folder


def _complete_data_bin(path, data: dict) -> None:
    """Complete a section about a data-bin that exists: an absolute path, and the languages."""
    from fairseq_kd.inference.opening import infer_languages  # imports torch

    check_text(path, "data-bin in data", data["data-bin"])
    languages = ("source-lang", "target-lang")
    if others := [name for name in data if name not in ("data-bin", *languages)]:
        raise KDError(
            f"{path}: {others[0]} in data has no effect beside data-bin: the study prepares no data; leave it out"
        )
    with prefixed_errors(f"{path}: data"):
        check_data_bin(data["data-bin"], "data-bin")
        if not all(name in data for name in languages):
            data |= dict(zip(languages, infer_languages(data["data-bin"]), strict=True)) | data
    for key in languages:
        check_text(path, f"{key} in data", data[key])
    data["data-bin"] = os.path.abspath(data["data-bin"])  # stages run in another folder


def _complete_tokenizer(path, evaluate: dict, lang: str) -> None:
    """Set one tokeniser for all stages that score.

    The default, 13a, is not written into commands: keys stay as before.
    """
    given = evaluate.get("tokenize")
    if "tokenize" in evaluate:
        check_text(path, "tokenize in evaluate", given)
    with prefixed_errors(f"{path}: evaluate"):
        tokenize = choose_tokenizer(lang, given)
    if tokenize != STANDARD:
        evaluate["tokenize"] = tokenize


def _check_evaluate(path, evaluate: dict) -> None:
    for key in EVALUATE_DEFAULTS:
        if not isinstance(evaluate[key], list) or not evaluate[key]:
            raise KDError(f"{path}: {key} in evaluate must be a list with one entry or more, found {evaluate[key]!r}")
    if not isinstance(evaluate.get(AGREEMENT, False), bool):
        raise KDError(f"{path}: {AGREEMENT} in evaluate must be true or false, found {evaluate[AGREEMENT]!r}")
    if evaluate.get(AGREEMENT) and "teacher" in evaluate:
        raise KDError(f"{path}: {AGREEMENT} and teacher in evaluate both say with which teacher a student is compared; "
                      "leave one of them out")  # fmt: skip
    for subset in evaluate["subsets"]:
        check_text(path, "an entry of subsets in evaluate", subset)
    for level in evaluate["noise"]:
        check_noise_level(path, "evaluate", level)
    for key in EVALUATE_DEFAULTS:
        if len(set(evaluate[key])) < len(evaluate[key]):
            raise KDError(f"{path}: {key} in evaluate has an entry twice: {', '.join(map(str, evaluate[key]))}")
