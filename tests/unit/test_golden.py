"""One small run of each kind of stage, whose results stand here beside the format number of the kind.

The stages of a study are used again while their format number is the same. So a change of the code that changes a
result must raise it, or old results are taken for new ones. What is compared is the same on every CPU: texts, ids,
decisions, and scores that are rounded far more coarsely than CPUs differ. The weights are drawn, not trained, and
large, so that no choice among words hangs on the last digits.
"""

import hashlib
import json
import shutil

import pytest
import torch
from conftest import TINY_MODEL
from federated_helpers import TINY, write_parts
from helpers import losses_of_training, write_checkpoint
from result_helpers import references, translations, write_result
from student_helpers import SMALL, build_student, some_input
from test_adaptive import ADAPTIVE
from test_compact import compacted, scatter_gates
from test_federated import GROUPS, in_one_process

from fairseq_kd.cache.reader import CacheReader
from fairseq_kd.cli.main import main
from fairseq_kd.core.paths import PACKAGE
from fairseq_kd.federated.plan import make_plan
from fairseq_kd.federated.spec import load_spec
from fairseq_kd.federated.training import client_arguments, training_options
from fairseq_kd.inference.checkpoint import read_checkpoint, write_initial_checkpoint
from fairseq_kd.scoring.score import PLAIN
from fairseq_kd.study.maker import MAKERS
from fairseq_kd.training.arguments import CROSS_ENTROPY, to_arguments, training_arguments

SHORT = ("--max-len-a", "0", "--max-len-b", "6", "--cpu")
GOLDEN = {  # kind: (format number, hash of what the run gives)
    "prepare": (1, "69a1ad343325c0b5"),
    "partition": (1, "6554f551db70e65c"),
    "noise": (1, "9121476467dafe4f"),
    "teacher": (2, "5b5db14c2ce74be7"),
    "select": (1, "8b5a6ea9fe907dac"),
    "average": (1, "200895a67054018b"),
    "init": (1, "8d31907e0c86d577"),
    "decode": (1, "15b0023eb6d8de97"),
    "mix": (1, "94f8cdc77fe78ce5"),
    "cache": (1, "fab58387318aa1f8"),
    "student": (1, "ac8c17107605a9c4"),
    "federated": (1, "38f38e8d73dacca5"),
    "split": (1, "cde6ff8d3751d42f"),
    "compact": (1, "8f0b518cf3c6a334"),
    "evaluate": (1, "55e1d0283c85ca32"),
    "compare": (1, "7aeab9a6134c0966"),
}


def run(*words) -> None:
    assert main([str(word) for word in words]) in (0, None)


def files(folder, *patterns) -> dict:
    """Name -> sha256 of the bytes."""
    found = sorted(path for pattern in patterns for path in folder.glob(pattern))
    assert found, f"{folder} has no {patterns}"
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def drawn(checkpoint, path, seed: int):
    """The model of a checkpoint with weights that depend on the seed alone."""
    state = read_checkpoint(checkpoint)
    generator, weights, known = torch.Generator().manual_seed(seed), {}, {}
    for name, value in state["model"].items():
        weights[name] = value
        if value.dim() > 1:
            scale = 1.0 if "embed" in name or "output" in name else 0.5
            fresh = torch.randn(value.shape, generator=generator) * scale
            weights[name] = known.setdefault(value.data_ptr(), fresh)  # embeddings are shared
    write_initial_checkpoint(path, state, weights)
    return path


@pytest.fixture(scope="module")
def model(teacher, tmp_path_factory):
    return drawn(teacher, tmp_path_factory.mktemp("drawn") / "checkpoints" / "checkpoint1.pt", seed=1)


@pytest.fixture
def parts(data_bin, teacher, model, tmp_path):
    """What the runs below are made of."""
    return {"data_bin": data_bin, "teacher": teacher, "model": model, "tmp_path": tmp_path}


def prepare(data_bin, **parts):
    return files(data_bin, "*.bin", "*.idx", "dict.*.txt", "raw/*")


def partition(data_bin, tmp_path, **parts):
    """Which part each sentence is in, by rules that need no fit."""
    found = {}
    for rule, alpha in (("length", ()), ("quantity", ("--alpha", 0.5)), ("vocabulary", ())):
        words = ("--parts", 3, "--by", rule, *alpha, "--no-plot", "--out", tmp_path / rule)
        run("partition", data_bin, *words)
        found[rule] = (tmp_path / rule / "parts" / "train.txt").read_text().split()
    return found


def noise(data_bin, tmp_path, **parts):
    rates = ("--delete", "0.1", "--substitute", "0.1", "--swap", "0.1")
    run("noise", "--data-bin", data_bin, "--subset", "test", *rates, "--out", tmp_path / "out")
    return files(tmp_path / "out", "test.*.bin", "test.*.idx")


def losses(data_bin, *arguments) -> list[str]:
    """Of two updates, to three digits."""
    return [f"{loss:.3g}" for loss in losses_of_training(data_bin, *arguments, "--dropout", "0.1", updates=2)[0]]


def teacher(data_bin, **parts):
    """The words of a training as a study plans it, and the losses of one."""
    options = {"arch": "transformer"} | CROSS_ENTROPY | {"seed": 1, "max-update": 9}
    words = training_arguments("DATA", "qaa", "qab", options, user_dir="PLUGIN")
    return words, losses(data_bin, *to_arguments(CROSS_ENTROPY), "--label-smoothing", "0.1")


def select(data_bin, teacher, model, tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    shutil.copy(model, folder / "checkpoint1.pt")
    drawn(teacher, folder / "checkpoint2.pt", seed=2)
    words = ("--checkpoints", folder, "--by", "low-loss", "--subset", "test", "--out", tmp_path / "out")
    run("select-teacher", data_bin, *words, *SHORT)
    found = json.loads((tmp_path / "out" / "selection.json").read_text())
    rows = [(row["checkpoint"][-14:], round(row["nll"], 1), round(row["bleu"], 2)) for row in found["checkpoints"]]
    return found["chosen"][-14:], rows


def average(teacher, model, tmp_path, **parts):
    """The sum of each matrix of the mean."""
    second = drawn(teacher, tmp_path / "second.pt", seed=2)
    run("average", f"{model}:{second}", "--out", tmp_path / "mean.pt")
    weights = read_checkpoint(tmp_path / "mean.pt")["model"]
    return [(name, round(float(value.double().sum()), 1)) for name, value in sorted(weights.items()) if value.dim() > 1]


def init(data_bin, model, tmp_path, **parts):
    """The shape and the sum of each matrix, which are the teacher's; of its channels the important half."""
    shape = ("--arch", "transformer", *TINY_MODEL[2 : TINY_MODEL.index("--optimizer")])
    half = ("--encoder-ffn-embed-dim", 16, "--decoder-ffn-embed-dim", 16)
    run("init-student", "--teacher", model, "--data", data_bin, *shape, *half, "--out", tmp_path / "init.pt")
    weights = read_checkpoint(tmp_path / "init.pt")["model"]
    drawn = {name: value for name, value in sorted(weights.items()) if value.dim() > 1}
    return [(name, list(value.shape), round(float(value.double().sum()), 1)) for name, value in drawn.items()]


def decode(data_bin, model, tmp_path, **parts):
    run("decode", data_bin, "--teacher", model, "--subset", "test", "--beam", 2, "--out", tmp_path / "out", *SHORT)
    return files(tmp_path / "out", "test.qaa-qab.qab.bin", "test.qaa-qab.qab.idx")


def mix(data_bin, tmp_path, **parts):
    run("mix", data_bin, data_bin, "--times", 2, 1, "--out", tmp_path / "out")
    return files(tmp_path / "out", "train.*.bin", "train.*.idx")


def cache(data_bin, model, tmp_path, **parts):
    words = ("--subset", "test", "--top-k", 2, "--temperature", 1, 2, "--cpu", "--out", tmp_path / "out")
    run("cache", data_bin, "--teacher", model, *words)
    reader = CacheReader(tmp_path / "out")
    rows = reader.rows(reader.sentence_rows(torch.arange(30).numpy()))
    mass = json.loads((tmp_path / "out" / "manifest.json").read_text())["mean_tail_mass"]
    return rows.ids[:, 0].tolist(), [round(value, 2) for value in mass]


def student(data_bin, model, **parts):
    options = ("--criterion", "kd_word", "--teacher", model, "--kd-weight", "0.5", "--teacher-temperature", "2")
    return losses(data_bin, *options, "--student-temperature", "2")


def federated(data_bin, tmp_path, **parts):
    """The sum of each matrix after two rounds, whose clients add numbers, and the words of a client's training."""
    keys = {"rounds": 2, "updates": 5, "student": TINY, "evaluate": {"every": 0}}
    spec = {"data": str(data_bin), "parts": list(map(str, write_parts(data_bin, tmp_path, GROUPS)))} | keys
    plan = make_plan(load_spec(None, spec), tmp_path / "run", cpu=True)
    in_one_process(plan)
    weights = read_checkpoint(tmp_path / "run" / "final.pt")["model"]
    sums = [(name, round(float(value.double().sum()), 1)) for name, value in sorted(weights.items()) if value.dim() > 1]
    words = client_arguments("DATA", plan["languages"], training_options(plan["spec"]), plan["spec"], 2, cpu=True)
    return sums, [word for word in words if word != str(PACKAGE)]


def split(data_bin, tmp_path, **parts):
    """The architecture of each peer, and the shape and the sum of each of its matrices."""
    peers = ("--arch", "kd_mutual", "--peer-archs", "transformer:kd_student", *TINY_MODEL[2:])
    write_checkpoint(tmp_path / "new.pt", data_bin, *peers, criterion="kd_mutual")
    run("split", drawn(tmp_path / "new.pt", tmp_path / "both.pt", seed=1), "--out", tmp_path / "out")
    found = {}
    for path in sorted((tmp_path / "out").glob("*/both.pt")):
        state = read_checkpoint(path)
        weights = {name: value for name, value in sorted(state["model"].items()) if value.dim() > 1}
        sums = {name: (list(value.shape), round(float(value.double().sum()), 1)) for name, value in weights.items()}
        found[path.parent.name] = [state["cfg"].model.arch, sums]
    return found


def compact(**parts):
    """Widths, and the most probable words."""
    gated = build_student(*ADAPTIVE, *SMALL)
    scatter_gates(gated, "plain")
    small, widths = compacted(gated, ())
    return widths, small.eval()(**some_input())[0].argmax(-1).tolist()


def evaluate(data_bin, model, tmp_path, **parts):
    run("evaluate", data_bin, "--checkpoint", model, "--out", tmp_path / "r.json", "--beam", 2, *SHORT)
    result = json.loads((tmp_path / "r.json").read_text())
    gold = references()
    scores = [round(one["score"], 1) for one in PLAIN.score(translations(gold, 0.3, seed=1), gold).values()]
    return result["hypotheses"], result["references"], result["sentences"], scores


def compare(tmp_path, **parts):
    gold = references()
    names = [
        write_result(tmp_path / f"{errors}.json", translations(gold, errors, seed=1), gold) for errors in (0.3, 0.25)
    ]
    run("compare", *names, "--out", tmp_path / "comparison.json")
    found = json.loads((tmp_path / "comparison.json").read_text())["systems"][1]
    p_values = [round(p, 2) for p in found["approximate_randomisation"]["p"]]
    return round(found["difference"], 2), found["decided_by"], p_values


RUNS = (prepare, partition, noise, teacher, select, average, init, decode, mix, cache, student, federated, split)
RUNS += (compact, evaluate, compare)
RUNS = {function.__name__: function for function in RUNS}


def test_every_kind_of_stage_has_a_golden_run():
    assert GOLDEN.keys() == RUNS.keys() == MAKERS.keys()


@pytest.mark.parametrize("kind", MAKERS)
def test_results_are_those_of_the_format_number(kind, parts):
    found = RUNS[kind](**parts)
    digest = hashlib.sha256(json.dumps(found, ensure_ascii=False).encode()).hexdigest()[:16]
    number, golden = GOLDEN[kind]
    assert MAKERS[kind].format == number, f"record the format number of {kind} in GOLDEN, with the hash {digest!r}"
    advice = (
        f"the stages of kind {kind} give other results than before, so a study must not use old ones again: raise the "
        f"format of {kind} in fairseq_kd/study/maker.py to {number + 1}, and record ({number + 1}, {digest!r}) here. "
        "Where a library has another version and our code has not changed, its version is in the key: record the hash. "
    )
    assert digest == golden, f"{advice}Found: {found}"[:3000]
