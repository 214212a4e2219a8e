"""Is what runs on a GPU right? Part of `gpu.py`."""

import json
import logging
import math

import fairseq_cli.train
import torch
from fairseq.data import indexed_dataset
from gpu_config import PRECISIONS, STOCK, configuration
from gpu_data import Bench
from gpu_parity_loss import fused_against_readable
from gpu_report import FAILED, Section

from fairseq_kd.cache.make import CachingOptions, make_cache
from fairseq_kd.cache.reader import CacheReader
from fairseq_kd.evaluation.evaluate import evaluate
from fairseq_kd.evaluation.system import TranslateOptions
from fairseq_kd.sequence.decode import decode
from fairseq_kd.sequence.decode_options import DecodeOptions

MODEL = """--encoder-layers 2 --decoder-layers 2 --encoder-embed-dim 64 --encoder-ffn-embed-dim 128
 --encoder-attention-heads 4 --lr 0.001 --dropout 0 --max-tokens 1000 --log-format json --log-interval 1
 --disable-validation --no-epoch-checkpoints --fp16-init-scale 4 --amp-init-scale 4"""
# largest relative difference between a loss and the loss in fp32 on the CPU; it is logged with three decimals, here
# from about 9
LOSSES = {"fp32": 1e-3, "fp16": 1e-2, "bf16": 2e-2, "amp": 1e-2}
AFTER_OVERFLOW = 0.1  # a skipped update moves all later ones by a batch
SAME_TARGETS = {"float32": 0.98, "float16": 0.85, "bfloat16": 0.6}
CACHED = {"float32": (0.999, 1e-3), "bfloat16": (0.8, 0.5)}  # share of tokens with the same first type; nats


def measure(bench: Bench, section: Section) -> None:
    """All of it."""
    section.note(
        "TF32 is off. A row is ok where its error is at most the tolerance next to it. Trainings: two layers, d = 64, "
        "dropout 0, the same batches; each loss of an update is compared."
    )
    fused_against_readable(bench, section)
    teacher = bench.folder / "teacher" / "checkpoint_last.pt"
    labels = {"of": "the teacher, with its last loss"}
    if section.attempt("teacher", labels, lambda: train_teacher(bench, teacher)):
        caches(bench, section, teacher)
        trainings(bench, section, teacher)
        generation(bench, section, teacher)


def verdict(error: float, tolerance: float) -> str:
    """The verdict of a row; an error that is not a number fails."""
    return "ok" if error <= tolerance else FAILED


class Losses(logging.Handler):
    """While it is entered: the losses that fairseq-train logs, one for each update that it made, and its overflows."""

    def __init__(self):
        super().__init__(logging.INFO)
        self.values, self.overflows = [], 0

    def emit(self, record):
        """What logging calls."""
        message = record.getMessage()
        if record.name == "train_inner":
            self.values.append(float(json.loads(message)["loss"]))
        elif "overflow detected" in message:
            self.overflows += 1

    def __enter__(self):
        logging.getLogger().addHandler(self)
        return self

    def __exit__(self, *_):
        logging.getLogger().removeHandler(self)


def fairseq_train(cfg) -> Losses:
    """fairseq-train in this process."""
    with Losses() as losses:
        fairseq_cli.train.main(cfg)
    return losses


def train_teacher(bench: Bench, path) -> dict:
    """A checkpoint after a few hundred updates."""
    changes = {"checkpoint": {"save_dir": str(path.parent)}, "dataset": {"max_tokens": 4000}}
    changes |= {"optimization": {"max_update": bench.sizes.teacher_updates, "lr": [0.002]}}
    model = [bench.corpus, "--arch", "kd_student", *MODEL.split()]
    losses = fairseq_train(configuration(model, {"_name": STOCK}, bench.cpu, **changes))
    return {"updates": len(losses.values), "loss": losses.values[-1]}


def variants(bench: Bench, teacher) -> dict[str, tuple]:
    """Name -> (architecture, criterion)."""
    kd, adaptive = {"_name": "kd_word"}, ("--arch", "kd_adaptive", "--capacity-target", "0.8")
    cached, student = {"kd_weight": 0.5, "teacher_cache": str(bench.folder / "cache-train")}, ("--arch", "kd_student")
    return {
        STOCK: (student, {"_name": STOCK}),
        "kd_word, no teacher": (student, kd),
        "kd_word, cached": (student, kd | cached),
        "kd_word, cached, reference": (student, kd | cached | {"kd_implementation": "reference"}),
        "kd_word, online": (student, kd | {"kd_weight": 0.5, "teacher": str(teacher)}),
        "kd_hybrid, cached, learned gate": (student, cached | {"_name": "kd_hybrid", "hybrid_gate": "learned"}),
        "kd_adaptive, cross-entropy": (adaptive, {"_name": STOCK}),
        "kd_adaptive, cached": (adaptive, kd | cached),
    }


def trainings(bench: Bench, section: Section, teacher) -> None:
    """Losses of each variant in each precision, against fp32 on the CPU."""
    greedy = DecodeOptions(subset="train", strategy="greedy", backend="fairseq", max_len_b=40, cpu=bench.cpu)
    decode(bench.corpus, str(teacher), bench.folder / "distilled", greedy, say=lambda line: None)
    for name, (arch, criterion) in variants(bench, teacher).items():
        expected = trained(bench, arch, criterion, "fp32", cpu=True)

        def compare(precision, arch=arch, criterion=criterion, expected=expected):
            found = trained(bench, arch, criterion, precision, bench.cpu)
            tolerance = AFTER_OVERFLOW if found.overflows else LOSSES[precision]
            error = worst(found.values, expected.values)
            figures = {"last loss": found.values[-1], "error": error, "tolerance": tolerance}
            return figures | {"overflows": found.overflows, "result": verdict(error, tolerance)}

        for precision in ("fp32",) if bench.cpu else PRECISIONS:  # fairseq's others need CUDA
            labels = {"training": name, "precision": precision}
            section.attempt("losses of trainings", labels, lambda: compare(precision))  # noqa: B023


def trained(bench: Bench, arch: tuple, criterion: dict, precision: str, cpu: bool) -> Losses:
    """A short training."""
    distilled = bench.folder / "distilled" if criterion["_name"] == "kd_hybrid" else None
    changes = {"checkpoint": {"no_save": True, "save_dir": str(bench.folder / "unused")}}
    # with --cpu on a machine with CUDA, fairseq's clipping mixes devices and fails
    changes["optimization"] = {"max_update": bench.sizes.updates, "clip_norm": 0.0}
    model = [bench.corpus, *arch, *MODEL.split()]
    return fairseq_train(configuration(model, criterion, cpu, precision, distilled, **changes))


def worst(found: list[float], expected: list[float]) -> float:
    """Largest relative difference; infinite where one is not a number."""
    assert len(found) == len(expected), f"{len(found)} updates, {len(expected)} on the CPU"
    errors = [abs(a - b) / b for a, b in zip(found, expected, strict=True)]
    return max(errors) if all(map(math.isfinite, errors)) else math.inf


def caches(bench: Bench, section: Section, teacher) -> None:
    """The cache of the training set, which trainings need; and of the validation set, on CPU and GPU."""
    cpu = bench.cpu
    make_cache(bench.corpus, teacher, bench.folder / "cache-train", CachingOptions(cpu=cpu))
    exact = {"subset": "valid", "store": "float32", "tail_shapes": 0}
    make_cache(bench.corpus, teacher, bench.folder / "cache-cpu", CachingOptions(**exact, cpu=True))
    for dtype in CACHED:
        out = bench.folder / f"cache-{dtype}"

        def compare(dtype=dtype, out=out):
            make_cache(bench.corpus, teacher, out, CachingOptions(**exact, cpu=cpu, teacher_dtype=dtype))
            return compare_caches(bench.folder / "cache-cpu", out, *CACHED[dtype])

        section.attempt("cache against one of the CPU in float32", {"teacher": dtype}, compare)


def compare_caches(expected, found, least: float, nats: float) -> dict:
    """Tokens with the same most probable entry, and with the same k in one order: the stored values may differ."""
    ours, theirs = (CacheReader(path).rows(slice(None)) for path in (found, expected))
    first, same = (ours.ids == theirs.ids)[:, 0].mean(), (ours.ids == theirs.ids).all(axis=1)
    error = max(abs(getattr(ours, name) - getattr(theirs, name))[same].max(initial=0) for name in ("delta", "tail"))
    result = "ok" if first >= least and error <= nats else FAILED
    share = {"same first": float(first), "at least": least, "same 16": float(same.mean())}
    return share | {"error, nats": float(error), "tolerance": nats, "result": result}


def generation(bench: Bench, section: Section, teacher) -> None:
    """`fairseq-kd decode` and `evaluate`: share of sentences with the same tokens or text as on the CPU."""
    expected = decoded(bench, teacher, "float32", cpu=True)
    scored = evaluated(bench, teacher, cpu=True)
    for dtype, least in SAME_TARGETS.items():

        def compare(dtype=dtype, least=least):
            found = decoded(bench, teacher, dtype, cpu=bench.cpu)
            return shares(found, expected, least)

        section.attempt("generation", {"command": f"decode --dtype {dtype}"}, compare)
    for fp16 in (False, True) if not bench.cpu else (False,):

        def score(fp16=fp16):
            result = evaluated(bench, teacher, fp16=fp16, cpu=bench.cpu)
            least = SAME_TARGETS["float16" if fp16 else "float32"]
            bleu = {"BLEU": result["bleu"]["score"], "on the CPU": scored["bleu"]["score"]}
            return shares(result["hypotheses"], scored["hypotheses"], least) | bleu

        section.attempt("generation", {"command": "evaluate --fp16" if fp16 else "evaluate"}, score)


def shares(found: list, expected: list, least: float) -> dict:
    """How many are equal."""
    share = sum(a == b for a, b in zip(found, expected, strict=True)) / len(expected)
    return {"equal": share, "at least": least, "result": "ok" if share >= least else FAILED}


def decoded(bench: Bench, teacher, dtype: str, cpu: bool) -> list[list[int]]:
    """Targets of the test set."""
    out = bench.folder / f"decoded-{dtype}-{'cpu' if cpu else 'cuda'}"
    options = DecodeOptions(subset="test", backend="fairseq", dtype=dtype, cpu=cpu, max_len_b=40)
    decode(bench.corpus, str(teacher), out, options, say=lambda line: None)
    targets = indexed_dataset.make_dataset(str(out / "test.qaa-qab.qab"), impl="mmap")
    return [targets[number].tolist() for number in range(len(targets))]


def evaluated(bench: Bench, teacher, **options) -> dict:
    """The result of the test set."""
    torch.manual_seed(1)
    return evaluate(bench.corpus, teacher, "test", TranslateOptions(max_len_b=40, **options))
