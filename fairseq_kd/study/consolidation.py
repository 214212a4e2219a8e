"""Consolidation: several models -> one student that learns from all of them, and the evidence that it is worth it.

A consolidation is a study on artefacts that exist (`existing`): a data-bin and the checkpoints. Its cells are the
student and what it must beat: the best of the models, the mean of their weights, and their ensemble (Lakshminarayanan
et al. 2017, arXiv 1612.01474, for ensembles; Wortsman et al. 2022, arXiv 2203.05482, for the mean of the weights).
"""

import os
from dataclasses import dataclass
from pathlib import Path

from fairseq_kd.artifacts.hashes import sha256_file
from fairseq_kd.artifacts.inputs import DATA_BIN_FILES
from fairseq_kd.core.errors import KDError, prefixed_errors
from fairseq_kd.core.paths import checkpoints_of
from fairseq_kd.core.yaml_file import check_keys, read_yaml
from fairseq_kd.study.factors import DEFAULTS
from fairseq_kd.study.methods import BEST_MODEL, CHOSEN, SOUP
from fairseq_kd.study.model_shapes import difference, is_student, training_options
from fairseq_kd.study.new_spec import TRAINING, labels
from fairseq_kd.study.sections import check_seed
from fairseq_kd.study.teachers import TEACHERS
from fairseq_kd.study.transfer import OWN, TEXT, TRANSFER, UNION

STARTS = ("best-score", "lowest-loss", "largest", "random")
CONSOLIDATED, ENSEMBLE = "word", "ensemble"
SECTIONS = ("common", "student", "kd", "select", "cache", "decode", "evaluate")
QUESTION = "Is one student that learns from all models better than the best of them, their mean and their ensemble?"


@dataclass(frozen=True)
class Consolidation:
    """What is consolidated, and how.

    models: paths of two or more checkpoints. start: one of STARTS, or the path of a checkpoint with which the student
    begins. weights: equal or adaptive. transfer: OWN, the path of a data-bin whose sources are used, or a list of files
    of text. updates: of the student. sections: options on top of the defaults, section -> options.
    seed: of the student, and of the choice at random.
    """

    data_bin: str
    models: tuple
    start: str
    weights: str
    transfer: object
    updates: int
    sections: dict
    seed: int = DEFAULTS["seed"]

    def __post_init__(self):
        if len(self.models) < 2:
            raise KDError(f"--models {':'.join(self.models)}: give two or more checkpoints, joined by :")
        checkpoints_of(os.pathsep.join(self.models), "--models")
        if self.start not in STARTS and not Path(self.start).is_file():
            raise KDError(f"--start {self.start} is no file: give {', '.join(STARTS)} or a checkpoint")
        if self.updates < 1:
            raise KDError(f"--updates {self.updates}: must be at least 1")
        check_seed("consolidate", "--seed", self.seed)


def read_sections_file(path) -> dict:
    """The options of --sections: a YAML file with some of SECTIONS. Raises KDError for other keys."""
    if path is None:
        return {}
    content = read_yaml(path, "the file of --sections")
    check_keys(path, "the file", content, valid=SECTIONS)
    for name, options in content.items():
        check_keys(path, name, options, valid=tuple(options or ()))
    return content


def consolidation_spec(request: Consolidation) -> tuple[dict, str | None]:
    """(the spec of the study, why there is no mean of the weights or None).

    Raises KDError when the models cannot be read, and when their shapes differ so that no student can have the shape
    of a model that is chosen later.
    """
    models = [_model(path) for path in request.models]
    other, name = next(((n, d) for n, one in enumerate(models) if (d := difference(models[0], one))), (0, None))
    why = name and f"{request.models[other]} and {request.models[0]} have different shapes ({name})"
    if why and request.start in STARTS and not all(map(is_student, models)):
        raise KDError(f"--start {request.start}: {why}, so a student cannot have the shape of a model that is chosen "
                      "later: give the checkpoint with which it begins as --start")  # fmt: skip
    begun = models[0] if request.start in STARTS else _model(request.start)
    with prefixed_errors(request.models[0] if request.start in STARTS else request.start):
        student = training_options(begun)
    if request.start in STARTS:
        _check_same_dropout(request, models)
    data_bin, how, decode = _transferred(request)
    init = {"init": [_init(request.start)]} if request.start in STARTS else {}
    seed = {} if request.seed == DEFAULTS["seed"] else {"seed": [request.seed]}
    begins = {} if init else {"finetune-from-model": os.path.abspath(request.start)}
    methods = [BEST_MODEL, *([] if why else [SOUP]), ENSEMBLE, CONSOLIDATED]
    warm_up = {"warmup-updates": min(TRAINING["warmup-updates"], max(1, request.updates // 10))}
    common = {name: value for name, value in (TRAINING | warm_up).items() if name != "dropout"}
    factors = {"method": methods, TEACHERS: {"all": [os.path.abspath(path) for path in request.models]}}
    content = {
        "question": QUESTION,
        "data": {"data-bin": os.path.abspath(data_bin)},
        "common": common,
        "student": student | begins,
        "budget": {"student": request.updates},
        "decode": decode,
        "factors": factors | init | seed | {"teacher-weights": [request.weights], TRANSFER: [how]},
        "claims": [f"{CONSOLIDATED} > {method} by bleu" for method in methods[:-1]],
    }
    content |= {name: content.get(name, {}) | options for name, options in request.sections.items()}
    return {name: value for name, value in content.items() if value != {}}, why


def _check_same_dropout(request: Consolidation, models: list) -> None:
    """Raises KDError where the dropout of the student would depend on the order of the models."""
    given = request.sections.get("student", {}) | request.sections.get("common", {})
    found = []
    for path, model in zip(request.models, models, strict=True):
        with prefixed_errors(path):
            options = training_options(model)
        found.append({name: value for name, value in options.items() if "drop" in name and name not in given})
    for path, one in zip(request.models, found, strict=True):
        if name := next(
            (name for name in sorted({*one, *found[0]}) if (one.get(name) or 0) != (found[0].get(name) or 0)), None
        ):
            raise KDError(f"{request.models[0]} and {path} were trained with other values of {name} "
                          f"({found[0].get(name, 0)} and {one.get(name, 0)}): give {name} in the section student of "
                          "--sections, for the training of the student")  # fmt: skip


def _model(path):
    from fairseq_kd.inference.checkpoint import read_checkpoint

    return read_checkpoint(path)["cfg"].model


def _init(start: str) -> str:
    return next(name for name in CHOSEN if name.removesuffix("-model") == start)


def _transferred(request: Consolidation) -> tuple[str, str, dict]:
    """(the data-bin of the study, the value of `transfer`, the section decode)."""
    transfer = request.transfer
    if transfer == OWN:
        return request.data_bin, OWN, {}
    if isinstance(transfer, list):
        return request.data_bin, TEXT, {"source-text": [os.path.abspath(file) for file in transfer]}
    if different := _different(request.data_bin, transfer):
        raise KDError(f"--transfer {transfer}: its {different} is not that of {request.data_bin}, so checkpoints would "
                      "be chosen and scored on other sentences: give a data-bin with the same validation and test "
                      "sets and dictionaries, such as the one that was divided")  # fmt: skip
    return transfer, UNION, {}


def _different(data_bin, other) -> str | None:
    """The first file of two data-bins, except those of the training set and manifests, that is not the same."""
    names = {str(file.relative_to(folder)) for folder in map(Path, (data_bin, other)) for pattern in DATA_BIN_FILES
             for file in folder.glob(pattern)}  # fmt: skip
    for name in sorted(names):
        if Path(name).name.startswith("train.") or name.endswith("manifest.json"):
            continue
        files = Path(data_bin) / name, Path(other) / name
        if not all(file.is_file() for file in files) or sha256_file(files[0]) != sha256_file(files[1]):
            return name
    return None


def names_of_models(models) -> dict[str, str]:
    """Absolute path of each model -> its name in tables."""
    return {path: name for name, path in labels(models).items()}
