"""The plan of a run: what server and clients need, checked before anything is written."""

from dataclasses import asdict
from pathlib import Path

from fairseq_kd.artifacts.data_bin import check_subset
from fairseq_kd.artifacts.data_bin_check import read_dictionary
from fairseq_kd.artifacts.hashes import data_files, data_hashes, dictionary_hash, sha256_file
from fairseq_kd.artifacts.records import read_record
from fairseq_kd.core.errors import KDError, prefixed_errors
from fairseq_kd.core.paths import check_data_bin
from fairseq_kd.criterions.planned import check_planned
from fairseq_kd.evaluation.results import read_result
from fairseq_kd.evaluation.segments import read_segments
from fairseq_kd.federated.spec import Spec, check_tokenizer, part_folders, translate_options
from fairseq_kd.federated.strategies import STRATEGIES
from fairseq_kd.federated.training import client_arguments, server_arguments, training_options
from fairseq_kd.inference.dictionaries import check_same_dictionary
from fairseq_kd.inference.opening import infer_languages
from fairseq_kd.training.arguments import check_without_teacher, parse_training

FILE = "plan.json"
SIDES = ("source", "target")
DECODING = ("beam", "lenpen", "max_len_a", "max_len_b")


def make_plan(spec: Spec, out: Path, cpu: bool) -> dict:
    """The plan as JSON: the keys of the spec, and

    out, data, parts: absolute paths; parts is empty in a real federation. clients: their number. languages, cpu,
    dictionaries: hashes of source and target. goal: the BLEU of the target, or None. inputs: hashes of the files.

    Raises KDError for a spec that server or clients would refuse later.
    """
    parts = part_folders(spec)
    if spec["data"] is None and not parts:
        raise KDError(f"{spec.path}: parts is the number of clients, so data must name a data-bin for the server")
    data = Path(spec["data"] or parts[0])
    for folder in (data, *parts):
        check_data_bin(folder, f"{spec.path}:")
    languages = infer_languages(data)
    dictionaries = _same_dictionaries(data, parts, languages)
    clients = len(parts) or spec["parts"]
    check_counts(spec, clients)
    _check_trainings(spec, data, languages, cpu)
    plan = {
        "spec": spec.values | {"parts": [], "data": None, "start": _start(spec)},
        "out": str(Path(out).absolute()),
        "data": str(data.absolute()),
        "parts": [str(part.absolute()) for part in parts],
        "clients": clients,
        "languages": list(languages),
        "cpu": cpu,
        "dictionaries": [dictionary_hash(dictionary) for dictionary in dictionaries],
        "goal": _goal(spec, data, check_tokenizer(spec, languages[1])),
    }
    return plan | {"inputs": _inputs(spec, plan)}


def read_plan(path) -> dict:
    """The plan in a file. Raises KDError when it is missing or damaged."""
    plan = read_record(path, "give the command fairseq-kd federated again", required=("spec", "out", "clients"))
    if plan is None:
        raise KDError(f"the plan {path} is not there: give the command fairseq-kd federated again")
    return plan


def _start(spec: Spec) -> str:
    return "random" if spec["start"] == "random" else str(Path(spec["start"]).absolute())


def _same_dictionaries(data: Path, parts: list[Path], languages) -> list:
    first = [read_dictionary(data / f"dict.{language}.txt") for language in languages]
    for part in parts:
        for side, language, dictionary in zip(SIDES, languages, first, strict=True):
            other = read_dictionary(part / f"dict.{language}.txt")
            check_same_dictionary(dictionary, other, side, names=(str(data), str(part)))
    return first


def check_counts(spec: Spec, clients: int) -> None:
    """Raises KDError for min-clients that a round cannot have. clients: the number of all."""
    drawn = drawn_clients(clients, spec["fraction"])
    if spec["min-clients"] > drawn:
        raise KDError(
            f"{spec.path}: min-clients is {spec['min-clients']}, but each round draws {drawn} of {clients} clients: "
            "lower min-clients, or raise fraction"
        )
    for key in STRATEGIES[spec["strategy"]["name"]].counts:
        if spec["strategy"].get(key, 0) >= drawn:
            raise KDError(
                f"{spec.path}: {key} of strategy {spec['strategy']['name']} is {spec['strategy'][key]}, but each round "
                f"draws {drawn} of {clients} clients: give a smaller number"
            )
    if spec["on-failure"] == "stop" and spec["min-clients"] > 1:
        raise KDError(f"{spec.path}: min-clients has no effect with on-failure stop, which needs all drawn clients")


def drawn_clients(clients: int, fraction: float) -> int:
    """The number of clients per round: fraction · clients, rounded, at least 1."""
    return max(1, round(fraction * clients))


def _check_trainings(spec: Spec, data: Path, languages, cpu: bool) -> None:
    options = training_options(spec.values)
    check_without_teacher(f"{spec.path}: common or student", options)
    _parse(f"{spec.path}: common or student", client_arguments(data, languages, options, spec.values, 1, cpu=cpu))
    if spec["server-kd"] is not None:
        _check_transfer(f"{spec.path}: transfer in server-kd", spec["server-kd"]["transfer"], data, languages)
        words = server_arguments(languages, spec.values, ["TEACHER"], 1, cpu=cpu)
        _parse(f"{spec.path}: server-kd, common or student", words)


def _check_transfer(where: str, transfer, data: Path, languages) -> None:
    check_data_bin(transfer, f"{where}:")
    with prefixed_errors(where):
        if check_subset(transfer, "train", languages) is None:
            raise KDError(f"{transfer} has no subset 'train' for {'-'.join(languages)}: give a data-bin with one")
        _same_dictionaries(data, [Path(transfer)], languages)


def _parse(where: str, words: list[str]) -> None:
    args = parse_training(where, words)
    with prefixed_errors(where):
        check_planned(args)


def _goal(spec: Spec, data: Path, tokenizer: str) -> float | None:
    """The BLEU of the target. Raises KDError for a result that was not scored as the rounds will be."""
    target = spec["target"]
    if target is None or "bleu" in target:
        return target and float(target["bleu"])
    result, subset = read_result(target["of"]), spec["evaluate"].get("subset", "test")
    if result["tokenize"] != tokenizer:
        other = f"the tokeniser {result['tokenize']}, the rounds have {tokenizer}"
    elif changed := _other_decoding(spec, result):
        other = changed
    elif result["references"] != read_segments(data, subset).references:
        other = f"other references than those of {subset!r} in {data}, on which the rounds are scored"
    else:
        return target["share"] * result["bleu"]["score"]
    raise KDError(f"{spec.path}: target: {target['of']} was scored with {other}: give a result of the same evaluation")


def _other_decoding(spec: Spec, result: dict) -> str | None:
    ours, theirs = asdict(translate_options(spec["evaluate"])), result["decoding"]
    name = next((name for name in DECODING if ours[name] != theirs[name]), None)
    return name and f"{name.replace('_', '-')} {theirs[name]}, the rounds have {ours[name]}"


def _inputs(spec: Spec, plan: dict) -> dict:
    """Name -> sha256 of the training data of each part, the server's data-bin, the start and the transfer set."""
    found = {}
    for number, folder in enumerate((plan["data"], *plan["parts"])):
        names = data_files(folder, "train", *plan["languages"]) if number else []
        subset = spec["evaluate"].get("subset", "test")
        names = names or data_files(folder, subset, *plan["languages"])
        found[f"part{number}" if number else "data"] = data_hashes(folder, names)
    if spec["start"] != "random":
        if not Path(spec["start"]).is_file():
            raise KDError(f"{spec.path}: start: {spec['start']} is not there: give random, or a checkpoint")
        found["start"] = sha256_file(spec["start"])
    if spec["server-kd"] is not None:
        transfer = spec["server-kd"]["transfer"]
        found["transfer"] = data_hashes(transfer, data_files(transfer, "train", *plan["languages"]))
    return found
