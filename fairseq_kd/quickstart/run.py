"""Run the stages of the quickstart in order.

A stage whose result exists is skipped, so the same command continues a killed run. On the CPU the two students of a
seed are trained at the same time, each with half of the threads.
"""

import contextlib
import sys
from pathlib import Path

import torch

from fairseq_kd.artifacts.hashes import sha256_file
from fairseq_kd.artifacts.manifest import MANIFEST_NAME
from fairseq_kd.artifacts.records import DamagedRecord, read_record, write_record
from fairseq_kd.cache.api import cache_teacher
from fairseq_kd.core.cores import usable_cores
from fairseq_kd.core.errors import KDError, prefixed_errors
from fairseq_kd.core.paths import check_new_data_bin
from fairseq_kd.core.preloaded import preloaded_python
from fairseq_kd.corpus.corpora import prepare_by_name, usual_options
from fairseq_kd.criterions.planned import check_planned
from fairseq_kd.evaluation.backend import FAIRSEQ, BackendOptions
from fairseq_kd.evaluation.evaluate import evaluate
from fairseq_kd.evaluation.system import TranslateOptions
from fairseq_kd.inference.device import choose_device
from fairseq_kd.inference.precision import OFF, check_bfloat16
from fairseq_kd.quickstart.recipe import CACHE, Recipe
from fairseq_kd.scoring.tokenizers import STANDARD, choose_tokenizer
from fairseq_kd.training.arguments import CROSS_ENTROPY, check_without_teacher, parse_training, training_arguments
from fairseq_kd.training.run import RECORD, Training, train_side_by_side

RESULT_KEYS = ("checkpoint_sha256", "manifest_sha256", "decoding", "parameters", "bleu", "chrf", "seconds")
PLAIN, DISTILLED, TEACHER = "student, cross-entropy", "student, kd_word", "teacher"


def run_quickstart(recipe: Recipe, data_bin, out, seeds: int, raw=None, cpu: bool = False) -> list[dict]:
    """Run or continue the quickstart; return one row per model: {"model", "seed", "result", "training"}.

    data_bin: the folder to make. out: folder of the runs. seeds: students are trained with seeds 1..seeds.
    Raises KDError, before anything is written, for options that a later stage would refuse.
    """
    check_new_data_bin(data_bin, "--data-bin")
    data_bin, out = Path(data_bin), Path(out)
    _tokenizer(recipe)
    _backend(recipe)
    check_trainings(recipe, choose_device(cpu))
    stages = _Stages(total=1 + 2 * (1 + 2 * seeds) + (recipe.signal == CACHE))
    trained = len(list(out.glob(f"*/{RECORD}"))) if out.is_dir() else 0
    forks = choose_device(cpu).type == "cpu" and trained < 2 * seeds  # at least two of 1 + 2 * seeds are left
    with preloaded_python() if forks else contextlib.nullcontext():
        return _run_stages(stages, recipe, data_bin, out, seeds, raw, cpu)


def _run_stages(stages: "_Stages", recipe: Recipe, data_bin: Path, out: Path, seeds: int, raw, cpu: bool) -> list[dict]:
    stages.begin("corpus")
    _prepare(recipe.data, data_bin, raw)

    def planned(model: str, name: str, seed: int = 1, signal=None) -> Training:
        options, inputs = _training_options(recipe, model, data_bin, signal, seed, cpu)
        return Training(out / name, options, inputs, _max_update(recipe, model), stages.begin(f"train {name}"))

    def scored(model: str, training: Training, record: dict, seed: int = 1) -> dict:
        stages.begin(f"score {training.folder.name}")
        result = _score(training.folder / "result.json", data_bin, record["checkpoint"], recipe, cpu)
        return {"model": model, "seed": seed, "result": result, "training": record}

    teacher = planned(TEACHER, "teacher")
    [record] = train_side_by_side([teacher])
    rows = [scored(TEACHER, teacher, record)]
    signal = record["checkpoint"]
    if recipe.signal == CACHE:
        stages.begin("cache of the teacher")
        signal = _cached(recipe, data_bin, signal, out / "cache", cpu)
    for seed in range(1, seeds + 1):
        students = {PLAIN: f"student-ce-{seed}", DISTILLED: f"student-kd-{seed}"}
        trainings = [planned(model, name, seed, signal) for model, name in students.items()]
        records = _train_students(trainings, cpu)
        rows += [scored(*found, seed) for found in zip(students, trainings, records, strict=True)]
    return rows


def _train_students(trainings: list[Training], cpu: bool) -> list[dict]:
    """Train at the same time on the CPU: small models gain little from more threads. Else one after the other."""
    threads = min(torch.get_num_threads(), usable_cores()) // len(trainings)
    if choose_device(cpu).type == "cpu" and threads > 0:
        return train_side_by_side(trainings, threads)
    return [record for training in trainings for record in train_side_by_side([training])]


def _cached(recipe: Recipe, data_bin: Path, teacher, folder: Path, cpu: bool) -> Path:
    """The cache of the teacher's distributions, with the usual options."""
    given = {key.replace("-", "_"): recipe.kd[key] for key in ("teacher-dtype",) if key in recipe.kd}
    temperature = float(recipe.kd.get("teacher-temperature", 1.0))
    cache_teacher(data_bin, teacher, folder, temperatures=(temperature,), cpu=cpu, **given)
    return folder


def check_trainings(recipe: Recipe, device: torch.device) -> None:
    """Parse the command of every kind of training. This package must be registered with fairseq.

    Raises KDError for an option that fairseq-train does not have, with the nearest valid one, or for a refused value,
    and for a precision that the device does not have.
    """
    sections = {TEACHER: "teacher or common", PLAIN: "student or common", DISTILLED: "student, common or kd"}
    for model, names in sections.items():
        arguments = _training_arguments(recipe, model, "DATA-BIN", "TEACHER", seed=1, cpu=True)
        where = f"{recipe.path}: {names}"
        if model != DISTILLED:
            check_without_teacher(where, _section(recipe, model))
        args = parse_training(where, arguments)
        with prefixed_errors(where):
            check_planned(args)
            if str(args.autocast) != OFF:
                check_bfloat16(device, f"precision {args.autocast}")
        with prefixed_errors(f"{recipe.path}: evaluate"):
            _backend(recipe).check_model(args)


class _Stages:
    """Numbers the stages on standard error."""

    def __init__(self, total: int):
        self.total, self.number = total, 0

    def begin(self, name: str) -> str:
        """Print the label of the next stage, and return it."""
        self.number += 1
        label = f"[{self.number}/{self.total}] {name}"
        print(label, file=sys.stderr, flush=True)
        return label


def _prepare(data: dict, data_bin: Path, raw) -> None:
    given = {name.replace("-", "_"): data[name] for name in ("vocab-size", "form", "normalisation") if name in data}
    options = usual_options(data["name"], given)
    prepare_by_name(data["name"], data["source-lang"], data["target-lang"], data_bin, options, raw, _say)


def _say(line: str) -> None:
    print(f"    {line}", file=sys.stderr, flush=True)


def _section(recipe: Recipe, model: str) -> dict:
    """The options of fairseq-train that the recipe gives for a model."""
    return recipe.common | (recipe.teacher if model == TEACHER else recipe.student)


def _max_update(recipe: Recipe, model: str) -> int:
    return int(_section(recipe, model)["max-update"])


def _training_options(recipe: Recipe, model, data_bin, signal, seed, cpu) -> tuple[list[str], dict]:
    """The arguments of fairseq-train for one model, and the hashes of the files that it depends on.

    signal: for the distilled student, the teacher's checkpoint or its cache, as the recipe says.
    """
    inputs = {"data": sha256_file(data_bin / MANIFEST_NAME)}
    if model == DISTILLED:
        cached = recipe.signal == CACHE
        inputs |= {"teacher-cache": sha256_file(signal / MANIFEST_NAME)} if cached else {"teacher": sha256_file(signal)}
    return _training_arguments(recipe, model, data_bin, signal, seed, cpu), inputs


def _training_arguments(recipe: Recipe, model, data_bin, signal, seed, cpu) -> list[str]:
    options = _section(recipe, model) | {"seed": seed}
    if model == DISTILLED and recipe.signal == CACHE:
        kd = {name: value for name, value in recipe.kd.items() if name != "teacher-dtype"}  # an option of the cache
        options |= {"criterion": "kd_word", "teacher-cache": signal} | kd
    elif model == DISTILLED:
        options |= {"criterion": "kd_word", "teacher": signal} | recipe.kd
    else:
        options |= CROSS_ENTROPY
    languages = recipe.data["source-lang"], recipe.data["target-lang"]
    return training_arguments(data_bin, *languages, options, cpu=cpu)


def _tokenizer(recipe: Recipe) -> str:
    return choose_tokenizer(recipe.data["target-lang"], recipe.evaluate.get("tokenize"))


def _backend(recipe: Recipe) -> BackendOptions:
    with prefixed_errors(f"{recipe.path}: evaluate"):
        return BackendOptions(recipe.evaluate.get("backend", FAIRSEQ))


def _kept(path: Path) -> dict | None:
    """The result of an earlier run, None where there is none. A damaged file is reported and made again."""
    try:
        return read_record(path, "the checkpoint is scored again", required=RESULT_KEYS)
    except DamagedRecord as error:
        print(f"    {error}", file=sys.stderr, flush=True)
        if path.is_dir():
            raise KDError(f"{path} is a folder: remove it, a result is written there") from error
        return None


def _score(path: Path, data_bin: Path, checkpoint, recipe: Recipe, cpu: bool) -> dict:
    given = dict(recipe.evaluate)
    tokenize, backend = given.pop("tokenize", None), _backend(recipe)
    given.pop("backend", None)
    options = TranslateOptions(**given, cpu=cpu)
    if (result := _kept(path)) is not None:
        made_from = (result["checkpoint_sha256"], result["manifest_sha256"], result["decoding"])
        made_from += (result.get("tokenize", STANDARD),)
        wanted = (sha256_file(checkpoint), sha256_file(data_bin / MANIFEST_NAME))
        wanted += (backend.recorded(options), _tokenizer(recipe))
        if made_from == wanted:
            return result
    result = evaluate(data_bin, checkpoint, "test", options, tokenize=tokenize, backend=backend)
    write_record(path, result)
    return result
