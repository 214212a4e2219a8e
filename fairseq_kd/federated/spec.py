"""The spec of a federated run: YAML in, checked keys with their defaults out."""

import math
from dataclasses import dataclass
from pathlib import Path

from fairseq_kd.core.errors import KDError
from fairseq_kd.core.paths import config_folder
from fairseq_kd.core.yaml_file import check_keys, check_text, is_number, read_yaml
from fairseq_kd.evaluation.system import TranslateOptions
from fairseq_kd.federated.strategies import STRATEGIES, check_strategy
from fairseq_kd.quickstart.recipe import available_recipes, find_recipe, load_recipe
from fairseq_kd.scoring.tokenizers import choose_tokenizer
from fairseq_kd.training.arguments import RESERVED
from fairseq_kd.training.schedules import check_by_updates

DEFAULTS = {
    "data": None,
    "recipe": None,
    "common": {},
    "student": {},
    "start": "random",
    "rounds": None,
    "updates": None,
    "seed": 1,
    "fraction": 1.0,
    "optimizer": "keep",
    "strategy": {"name": "FedAvg"},
    "weights-by": "sentences",
    "timeout": 3600,
    "on-failure": "stop",
    "min-clients": 1,
    "evaluate": {},
    "target": None,
    "stop-at-target": False,
    "server-kd": None,
    "keep-rounds": 2,
}
KEYS = ("parts", *DEFAULTS)
SECTIONS = ("common", "student", "evaluate")  # an option of the command changes single keys of these
CHOICES = {"optimizer": ("keep", "reset"), "weights-by": ("sentences", "tokens"), "on-failure": ("stop", "go-on")}
LEAST = {"rounds": 1, "updates": 1, "min-clients": 1, "keep-rounds": 1, "seed": 0}
EVALUATE = ("every", "subset", "tokenize", "beam", "lenpen", "max-len-a", "max-len-b", "max-tokens")
# options that the rounds set themselves, or by which a server could read or write files of a client
NOT_GIVEN = (
    *RESERVED,
    *("max-update", "max-epoch", "stop-time-hours", "stop-min-lr", "patience", "restore-file", "finetune-from-model"),
    *("reset-optimizer", "reset-lr-scheduler", "reset-meters", "reset-dataloader", "disable-validation"),
    *("proximal-mu", "proximal-weights", "trust-checkpoint", "tensorboard-logdir", "wandb-project", "log-file"),
)
OPTIONS = "the options"  # in messages, in place of a file
OWN_EPOCHS = "which each client counts for itself"
FROM_MAX_UPDATE = "phase-ratio"  # of --lr-scheduler tri_stage


@dataclass(frozen=True)
class Spec:
    """A checked spec. values: all KEYS. path: the file, for messages."""

    path: Path
    values: dict

    def __getitem__(self, key: str):
        return self.values[key]

    @property
    def training(self) -> dict:
        """The options of fairseq-train for a client."""
        return self["common"] | self["student"]


def spec_path(name) -> Path:
    """A file, or a shipped spec by its name. Raises KDError when it is neither."""
    shipped = config_folder() / "federated" / f"{name}.yaml"
    if not Path(name).is_file() and not shipped.is_file():
        known = ", ".join(sorted(path.stem for path in shipped.parent.glob("*.yaml")))
        raise KDError(f"there is no spec {name}: give a file, or one of {known}")
    return Path(name) if Path(name).is_file() else shipped


def load_spec(path, changes: dict | None = None) -> Spec:
    """Read and check a spec. path: of the file; None: `changes` are the whole spec.

    changes: key -> value in place of that of the file; in SECTIONS, of the keys that it names.
    Raises KDError that names the key at fault and the nearest valid one.
    """
    path, found = (Path(OPTIONS), {}) if path is None else (Path(path), read_yaml(path, "spec"))
    check_keys(path, "the spec", found, KEYS)
    for key, value in (changes or {}).items():
        merge = key in SECTIONS and isinstance(value, dict) and isinstance(found.get(key), dict)
        found[key] = found[key] | value if merge else value
    check_keys(path, "the spec", found, KEYS, required=("parts", "rounds", "updates"))
    values = DEFAULTS | found
    _add_recipe(path, values)
    _check_values(path, values, found)
    return Spec(path, values)


def _add_recipe(path: Path, values: dict) -> None:
    """Put the sections of the recipe under those of the spec."""
    for name in SECTIONS:
        check_keys(path, name, values[name], values[name] or ())
    if (name := values["recipe"]) is None:
        return
    check_text(path, "recipe", name)
    recipe = load_recipe(find_recipe(name) if name in available_recipes() else name)
    student = {key: value for key, value in recipe.student.items() if key != "max-update"}
    common = {key: value for key, value in recipe.common.items() if key != "max-update"}
    values |= {"common": common | values["common"], "student": student | values["student"]}


def _check_values(path: Path, values: dict, given: dict) -> None:
    for name, choices in CHOICES.items():
        if values[name] not in choices:
            raise KDError(f"{path}: {name} has the value {values[name]!r}; it must be {' or '.join(choices)}")
    for name, least in LEAST.items():
        if type(values[name]) is not int or values[name] < least:
            raise KDError(f"{path}: {name} must be a whole number from {least}, found {values[name]!r}")
    if not (is_number(values["fraction"]) and 0 < values["fraction"] <= 1):
        raise KDError(f"{path}: fraction must be a number above 0 and at most 1, found {values['fraction']!r}")
    if not (is_number(values["timeout"]) and 0 < values["timeout"] < math.inf):
        raise KDError(f"{path}: timeout must be a number of seconds above 0, found {values['timeout']!r}")
    if not isinstance(values["stop-at-target"], bool):
        raise KDError(f"{path}: stop-at-target must be true or false, found {values['stop-at-target']!r}")
    for name in ("start", *(key for key in ("data",) if values[key] is not None)):
        check_text(path, name, values[name])
    check_strategy(path, values["strategy"])
    name = values["strategy"]["name"]
    if "weights-by" in given and not STRATEGIES[name].weighted:
        raise KDError(f"{path}: weights-by has no effect with strategy {name}, in which all clients have equal weight")
    check_by_updates(f"{path}: common or student", values["common"] | values["student"], OWN_EPOCHS)
    _check_training(path, "common", values["common"])
    _check_training(path, "student", values["student"])
    _check_evaluate(path, values["evaluate"])
    _check_target(path, values, given)
    _check_server_kd(path, values["server-kd"])
    _check_parts(path, values["parts"])


def _check_training(path: Path, section: str, options: dict) -> None:
    for key in (*NOT_GIVEN, FROM_MAX_UPDATE):
        if key in options:
            remedy = "give the phases in updates" if key == FROM_MAX_UPDATE else "leave it out"
            raise KDError(f"{path}: {key} in {section} cannot be given, because the rounds decide about it: {remedy}")


def _check_evaluate(path: Path, given: dict) -> None:
    check_keys(path, "evaluate", given, EVALUATE)
    every = given.get("every", 1)
    if type(every) is not int or every < 0:
        raise KDError(f"{path}: every in evaluate must be a whole number of rounds, or 0 for none, found {every!r}")
    try:
        translate_options(given)
    except TypeError as error:
        raise KDError(f"{path}: evaluate must have numbers: {error}") from error


def translate_options(given: dict, cpu: bool = False) -> TranslateOptions:
    """The options of beam search in a section `evaluate`. Raises KDError for a value out of range."""
    options = {key.replace("-", "_"): value for key, value in given.items() if key in EVALUATE[3:]}
    return TranslateOptions(**options, cpu=cpu)


def _check_target(path: Path, values: dict, given: dict) -> None:
    target = values["target"]
    if target is None:
        if given.get("stop-at-target"):
            raise KDError(f"{path}: stop-at-target has no effect without target")
        return
    check_keys(path, "target", target, ("bleu", "share", "of"))
    if set(target) not in ({"bleu"}, {"share", "of"}):
        raise KDError(f"{path}: target must be {{bleu: X}} or {{share: 0.95, of: RESULT.json}}, found {target!r}")
    for key in target.keys() - {"of"}:
        if not (is_number(target[key]) and target[key] > 0):
            raise KDError(f"{path}: {key} in target must be a number above 0, found {target[key]!r}")
    if target.get("share", 1) > 1:
        raise KDError(f"{path}: share in target must be at most 1, found {target['share']!r}")
    if values["evaluate"].get("every", 1) == 0:
        raise KDError(f"{path}: target needs the BLEU of the rounds, but evaluate has every: 0")


def _check_server_kd(path: Path, given) -> None:
    if given is None:
        return
    check_keys(path, "server-kd", given, given or (), required=("updates", "transfer"))
    if type(given["updates"]) is not int or given["updates"] < 1:
        raise KDError(f"{path}: updates in server-kd must be a whole number from 1, found {given['updates']!r}")
    check_text(path, "transfer in server-kd", given["transfer"])
    for key in ("teacher", "teacher-cache", "teacher-schedule"):
        if key in given:
            raise KDError(f"{path}: {key} in server-kd cannot be given: the teachers are the models of the clients")
    _check_training(path, "server-kd", {key: given[key] for key in given.keys() - {"updates", "transfer"}})


def _check_parts(path: Path, parts) -> None:
    if isinstance(parts, list):
        for part in parts:
            check_text(path, "each of parts", part)
    elif isinstance(parts, bool) or not (isinstance(parts, str | int) and parts) or (type(parts) is int and parts < 1):
        raise KDError(f"{path}: parts must be a folder of fairseq-kd partition, a list of data-bins, or the number of "
                      f"clients of a real federation, found {parts!r}")  # fmt: skip


def part_folders(spec: Spec) -> list[Path]:
    """The data-bins of the clients, in the order of their numbers; [] for a real federation, whose clients have them.

    Raises KDError for a folder without part1, part2, ..., or with gaps between the numbers.
    """
    parts = spec["parts"]
    if isinstance(parts, int):
        return []
    if isinstance(parts, list):
        return [Path(part) for part in parts]
    found = [path for path in Path(parts).glob("part*") if path.is_dir() and path.name[4:].isdecimal()]
    found = sorted(found, key=lambda path: int(path.name[4:]))
    if not found or [path.name for path in found] != [f"part{number}" for number in range(1, len(found) + 1)]:
        names = ", ".join(path.name for path in found) or "none"
        raise KDError(f"{spec.path}: parts: {parts} must have the folders part1, part2, ... that fairseq-kd partition "
                      f"writes; found: {names}")  # fmt: skip
    return found


def check_tokenizer(spec: Spec, target_lang: str) -> str:
    """sacreBLEU's tokeniser of the evaluations. Raises KDError for an unknown one."""
    return choose_tokenizer(target_lang, spec["evaluate"].get("tokenize"))
