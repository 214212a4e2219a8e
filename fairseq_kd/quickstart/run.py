"""Run the stages of the quickstart in order, and write its table.

A stage whose result exists is skipped, so the same command continues a killed run. The table has one line per model and
seed, and the difference between the mean scores of the two kinds of students.
"""

import contextlib
import sys
from pathlib import Path
from statistics import mean

import torch

from fairseq_kd.artifacts.hashes import sha256_file
from fairseq_kd.artifacts.manifest import MANIFEST_NAME
from fairseq_kd.artifacts.records import DamagedRecord, read_record, write_record
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
from fairseq_kd.quickstart.recipe import Recipe
from fairseq_kd.scoring.tokenizers import STANDARD, choose_tokenizer
from fairseq_kd.training.arguments import CROSS_ENTROPY, check_without_teacher, parse_training, training_arguments
from fairseq_kd.training.run import RECORD, train

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
    stages = _Stages(total=1 + 2 * (1 + 2 * seeds))
    trained = len(list(out.glob(f"*/{RECORD}"))) if out.is_dir() else 0
    forks = choose_device(cpu).type == "cpu" and trained < 2 * seeds  # at least two of 1 + 2 * seeds are left
    with preloaded_python() if forks else contextlib.nullcontext():
        return _run_stages(stages, recipe, data_bin, out, seeds, raw, cpu)


def _run_stages(stages: "_Stages", recipe: Recipe, data_bin: Path, out: Path, seeds: int, raw, cpu: bool) -> list[dict]:
    stages.begin("corpus")
    _prepare(recipe.data, data_bin, raw)
    models = [(TEACHER, 1, "teacher")]
    for seed in range(1, seeds + 1):
        models += [(PLAIN, seed, f"student-ce-{seed}"), (DISTILLED, seed, f"student-kd-{seed}")]
    rows, teacher = [], None
    for model, seed, name in models:
        stages.begin(f"train {name}")
        options, inputs = _training_options(recipe, model, data_bin, teacher, seed, cpu)
        record = train(out / name, options, inputs, _max_update(recipe, model), stages.label)
        teacher = teacher or record["checkpoint"]
        stages.begin(f"score {name}")
        result = _score(out / name / "result.json", data_bin, record["checkpoint"], recipe, cpu)
        rows.append({"model": model, "seed": seed, "result": result, "training": record})
    return rows


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
        self.total, self.number, self.label = total, 0, ""

    def begin(self, name: str) -> None:
        self.number += 1
        self.label = f"[{self.number}/{self.total}] {name}"
        print(self.label, file=sys.stderr, flush=True)


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


def _training_options(recipe: Recipe, model, data_bin, teacher, seed, cpu) -> tuple[list[str], dict]:
    """The arguments of fairseq-train for one model, and the hashes of the files that it depends on."""
    inputs = {"data": sha256_file(data_bin / MANIFEST_NAME)}
    if model == DISTILLED:
        inputs["teacher"] = sha256_file(teacher)
    return _training_arguments(recipe, model, data_bin, teacher, seed, cpu), inputs


def _training_arguments(recipe: Recipe, model, data_bin, teacher, seed, cpu) -> list[str]:
    options = _section(recipe, model) | {"seed": seed}
    if model == DISTILLED:
        options |= {"criterion": "kd_word", "teacher": teacher} | recipe.kd
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


def format_table(rows: list[dict]) -> str:
    """The table as plain text."""
    lines = [_line("model", "seed", "parameters", "BLEU", "chrF2", "training s", "decoding s"), ""]
    for row in rows:
        result = row["result"]
        lines.append(
            _line(
                row["model"],
                row["seed"],
                f"{result['parameters']:,}",
                f"{result['bleu']['score']:.2f}",
                f"{result['chrf']['score']:.2f}",
                f"{row['training']['seconds']:.0f}",
                f"{result['seconds']:.1f}",
            )
        )
    lines[1] = "-" * max(map(len, lines))
    plain, distilled = (
        [row["result"]["bleu"]["score"] for row in rows if row["model"] == model] for model in (PLAIN, DISTILLED)
    )
    seeds = f"mean of {len(plain)} seeds" if len(plain) > 1 else "one seed"
    lines += [
        "",
        f"distilled - plain: {mean(distilled) - mean(plain):+.2f} BLEU "
        f"({mean(distilled):.2f} against {mean(plain):.2f}, {seeds})",
    ]
    return "\n".join(lines)


def _line(model, seed, parameters, bleu, chrf, training, decoding) -> str:
    return f"{model:<24}{seed:>4}{parameters:>12}{bleu:>8}{chrf:>8}{training:>12}{decoding:>12}"
