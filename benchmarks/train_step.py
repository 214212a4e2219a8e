"""Seconds of a whole update (forward, backward, clipping, Adam): plain cross-entropy against kd_word.

Usage: python benchmarks/train_step.py DATA_BIN [--updates 30] [--max-tokens 4096] [--device cpu] [--fp16] [--bf16]
    [--return-memory] [--shares] [--keep DIR] [--teachers N]

DATA_BIN is made by fairseq-kd prepare, best with a vocabulary of 8,000 to 10,000. Student: 3 + 3 layers, d = 256,
ffn 512 (5.9 M parameters at 8,000 vocabulary entries); teacher: the same with ffn 1,024 (7.5 M), trained for one
update, because only its cost matters; --keep makes it and its cache in DIR, where a second run finds them. The baseline
is --arch transformer with label_smoothed_cross_entropy; kd_word trains the equally shaped kd_student. The trainers of
all variants are built in this process, by fairseq's own classes, and take the same batches in turn: update i of each,
then update i + 1. So all have the same memory settings: freed memory is kept, or with --return-memory it goes back to
the system, as in fairseq-train without this plugin.

With --teachers N there are also variants with N different teachers: they run (with the limit for the time: one update
with one teacher and N - 1 times 1.05 of the teacher's forward pass), or one cache holds their mixture; and
data-partitioning KD between the first teacher and the second one in the place of the student's start, both running or
both cached. "kd_hybrid cached" has the gold targets as its second targets.

Printed: medians over updates, the first two left out, and their ratios to label_smoothed_cross_entropy. "teacher
forward" is the teacher's forward pass alone, with log-softmax. "kd_word online, on-policy" samples each target; its
student has hardly been trained, so most samples have the largest length, and the row is an upper bound. With --shares
also the shares of the operators, and the limit: the matrix products of one update alone, without what is between them,
each in the type that the variant uses.
"""

import argparse
import collections
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from fairseq import options, tasks, utils
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.trainer import Trainer

import fairseq_kd
from fairseq_kd.inference.frozen import load_frozen
from fairseq_kd.inference.linear import pays
from fairseq_kd.training.memory import SWITCH

MODEL = """--encoder-layers 3 --decoder-layers 3 --encoder-embed-dim 256 --decoder-embed-dim 256
 --encoder-attention-heads 4 --decoder-attention-heads 4 --share-all-embeddings --optimizer adam --lr 0.0005
 --clip-norm 1.0 --label-smoothing 0.1 --required-batch-size-multiple 1 --num-workers 0 --seed 1
 --encoder-ffn-embed-dim {ffn} --decoder-ffn-embed-dim {ffn}"""
STOCK = ["--arch", "transformer", "--criterion", "label_smoothed_cross_entropy"]
OURS = ["--arch", "kd_student", "--criterion", "kd_word"]
HYBRID = ["--arch", "kd_student", "--criterion", "kd_hybrid", "--task", "kd_translation"]
TWO_PEERS = ["--arch", "kd_mutual", "--peer-archs", "kd_student:kd_student", "--criterion", "kd_mutual"]
NARROW = ["--autocast", "bfloat16"]
PRODUCTS = ("aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm")
GROUPS = {
    "matrix products": PRODUCTS,
    "copies and changes of type": ("aten::copy_", "aten::fill_", "aten::zero_"),
    "attention": ("aten::_scaled_dot_product",),
    "dropout": ("aten::bernoulli_", "aten::ge", "_Dropout"),
    "softmax": ("aten::_softmax", "aten::_log_softmax", "aten::amax", "aten::logsumexp", "aten::exp"),
    "layer norm": ("aten::native_layer_norm",),
    "element by element": ("aten::add", "aten::mul", "aten::div", "aten::clamp", "aten::threshold", "aten::sum"),
}


def words(args, ffn, *more) -> list[str]:
    """A command line of fairseq-train for a model with this width of its feed-forward layers."""
    device = ["--cpu"] if args.device == "cpu" else []
    precision = ["--fp16"] if args.fp16 else ["--bf16"] if args.bf16 else []
    common = [str(args.data_bin), *MODEL.format(ffn=ffn).split(), "--max-tokens", str(args.max_tokens)]
    return [*common, *device, *precision, "--user-dir", str(Path(fairseq_kd.__file__).parent), *more]


def make_teacher(args, folder: Path, seed: int = 1) -> Path:
    """A checkpoint after one update."""
    path = folder / "checkpoint_last.pt"
    if not path.is_file():
        trained = words(args, 1024, *STOCK, "--max-update", "1", "--seed", str(seed))
        subprocess.run([sys.executable, "-m", "fairseq_cli.train", *trained, "--save-dir", str(folder)], check=True)
    return path


def make_cache(args, teachers: list[Path], out: Path) -> Path:
    """A cache (k = 16) of the teacher, or of the mixture of several."""
    command = [sys.executable, "-m", "fairseq_kd.cli.main", "cache", str(args.data_bin)]
    command += ["--teacher", os.pathsep.join(map(str, teachers)), "--subset", "train", "--top-k", "16"]
    device = ["--cpu"] if args.device == "cpu" else []
    subprocess.run([*command, "--out", str(out), *device], check=True)
    return out


def with_several(args, folder: Path, teacher: Path, cache: Path) -> dict[str, list[str]]:
    """The words of the variants with --teachers teachers and with data-partitioning KD."""
    others = [make_teacher(args, folder / f"seed{seed}", seed) for seed in range(2, args.teachers + 1)]
    mixture = make_cache(args, [teacher, *others], folder / f"cache-of-{args.teachers}")
    start = make_cache(args, others[:1], folder / "cache-seed2")
    partition = ["--kd-partition", "supervised"]
    return {
        several(args): [*OURS, "--teacher", os.pathsep.join(map(str, [teacher, *others]))],
        f"kd_word cached, mixture of {args.teachers}": [*OURS, "--teacher-cache", str(mixture)],
        "kd_word online, partition": [*OURS, "--teacher", str(teacher), "--kd-start", str(others[0]), *partition],
        "kd_word cached, partition": [*OURS, "--teacher-cache", str(cache), "--kd-start-cache", str(start), *partition],
    }


def build(arguments) -> Trainer:
    """A trainer as fairseq-train builds it."""
    cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), arguments))
    utils.set_torch_seed(cfg.common.seed)
    task = tasks.setup_task(cfg.task)
    model = task.build_model(cfg.model)
    return Trainer(cfg, task, model, task.build_criterion(cfg.criterion))


def timed(function, device) -> float:
    """Seconds of a call."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Make the teacher and its cache, build the trainers, measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_bin", type=Path)
    parser.add_argument("--updates", type=int, default=30)
    parser.add_argument("--max-tokens", type=int, default=4096)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--fp16", action="store_true")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--return-memory", action="store_true")
    parser.add_argument("--keep", type=Path, metavar="DIR")
    parser.add_argument("--teachers", type=int, default=1, metavar="N")
    parser.add_argument("--shares", action="store_true")
    args = parser.parse_args()
    os.environ[SWITCH] = "0" if args.return_memory else "1"
    with tempfile.TemporaryDirectory() as folder:
        folder = args.keep or Path(folder)
        teacher = make_teacher(args, folder)
        cache = make_cache(args, [teacher], folder / "cache")
        distilled = shutil.copytree(args.data_bin, folder / "distilled", dirs_exist_ok=True)
        named = variants(args, teacher, cache, distilled)
        if args.teachers > 1:
            named |= with_several(args, folder, teacher, cache)
        trainers = {name: build(words(args, 512, *more)) for name, more in named.items()}
        measure(args, trainers, load_frozen(teacher))


def variants(args, teacher: Path, cache: Path, distilled: Path) -> dict[str, list[str]]:
    """The words of each variant, by name."""
    cached, online = (["--teacher-cache", str(cache)], ["--teacher", str(teacher)])
    found = {
        "stock cross-entropy": STOCK,
        "kd_word, no teacher": [*OURS, "--kd-weight", "0"],
        "kd_word cached": [*OURS, *cached],
        "kd_word cached, reference": [*OURS, *cached, "--kd-implementation", "reference"],
        "kd_word online": [*OURS, *online],
        "kd_word online, on-policy": [*OURS, *online, "--on-policy-rate", "1", "--label-smoothing", "0"],
        "kd_word online, reference": [*OURS, *online, "--kd-implementation", "reference"],
        "kd_hybrid cached": [*HYBRID, "--distilled", str(distilled), *cached],
        "kd_mutual, two peers": TWO_PEERS,  # trains two students
    }
    if not (args.fp16 or args.bf16):
        found |= {
            "no teacher, autocast": [*OURS, "--kd-weight", "0", *NARROW],
            "cached, autocast": [*OURS, *cached, *NARROW],
            "online, autocast": [*OURS, *online, *NARROW],
        }
    return found


def several(args) -> str:
    """The name of the variant with several teachers."""
    return f"kd_word online, {args.teachers} teachers"


def of_dataset(trainer, sample) -> dict:
    """The same sentences as a batch of the trainer's own training set."""
    dataset = trainer.task.dataset("train")
    return dataset.collater([dataset[int(number)] for number in sample["id"]])


def measure(args, trainers, teacher) -> None:
    """Train in turn and print."""
    first = trainers["stock cross-entropy"]
    batches = iter(first.get_train_iterator(1).next_epoch_itr(shuffle=True))
    for name, trainer in list(trainers.items())[1:]:
        if "hybrid" in name:
            trainer.task.load_dataset("train")
        else:
            trainer.task.datasets = first.task.datasets
    times = {name: [] for name in [*trainers, "teacher forward"]}
    positions = tokens = 0
    with torch.no_grad():
        network = teacher.model.to(args.device)
    for sample in (next(batches) for _ in range(args.updates)):
        positions, tokens = positions + sample["target"].numel(), tokens + sample["ntokens"]
        for name, trainer in trainers.items():
            batch = of_dataset(trainer, sample) if "hybrid" in name else sample
            times[name].append(timed(lambda trainer=trainer, batch=batch: trainer.train_step([batch]), args.device))
        on_device = utils.move_to_cuda(sample) if args.device == "cuda" else sample
        with torch.no_grad():
            forward = lambda s=on_device: network.get_normalized_probs(network(**s["net_input"]), log_probs=True)  # noqa: E731
            times["teacher forward"].append(timed(forward, args.device))
    medians = {name: statistics.median(values[2:]) for name, values in times.items()}
    model = first.model
    where = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(
        f"{where}, torch {torch.__version__}, V = {len(first.task.target_dictionary):,}, student "
        f"{sum(p.numel() for p in model.parameters()):,} parameters, teacher "
        f"{sum(p.numel() for p in network.parameters()):,}; {tokens // args.updates:,} target tokens per batch in "
        f"{positions // args.updates:,} positions; median of {args.updates - 2} updates"
    )
    for name, value in medians.items():
        print(f"{name:<28}{1000 * value:>9.1f} ms{value / medians['stock cross-entropy']:>7.2f}")
    if args.teachers > 1:
        limit = medians["kd_word online"] + (args.teachers - 1) * 1.05 * medians["teacher forward"]
        print(f"limit of {args.teachers} teachers {1000 * limit:>18.1f} ms; ratio {medians[several(args)] / limit:.2f}")
    if args.shares:
        for name in ("stock cross-entropy", "cached, autocast"):
            print_shares(name, trainers[name], sample)


def print_shares(name: str, trainer, sample) -> None:
    """Profile updates on one batch; print the shares of the operators and the products alone."""
    trainer.train_step([sample])
    with torch.profiler.profile(record_shapes=True) as profile:
        for _ in range(3):
            trainer.train_step([sample])
    totals, products, narrow = collections.Counter(), 0.0, "autocast" in name
    for event in profile.key_averages(group_by_input_shape=True):
        key = event.key
        group = next((g for g, names in GROUPS.items() if key.startswith(names)), "all other")
        totals[group] += event.self_cpu_time_total / 3e6
        if key in PRODUCTS:
            products += alone(*event.input_shapes["addmm" in key :][:2], narrow) * event.count / 3
    print(f"\n{name}: seconds per update under the profiler, {sum(totals.values()):.3f} in all")
    for group, seconds in totals.most_common():
        print(f"    {group:<28}{seconds:>8.3f}{seconds / sum(totals.values()):>8.0%}")
    print(f"    limit: its products alone   {products:>8.3f}")


def alone(left: list[int], right: list[int], narrow: bool) -> float:
    """Median seconds of a product of matrices with these shapes, into memory that exists.

    narrow: in bfloat16, if it is large enough for that.
    """
    size = torch.Size(left).numel() * right[-1]
    dtype = torch.bfloat16 if narrow and len(left) == 2 and pays(size) else torch.float32
    a, b = torch.ones(left, dtype=dtype), torch.ones(right, dtype=dtype)
    out, multiply = a @ b, torch.mm if len(left) == 2 else torch.bmm
    return statistics.median(timed(lambda: multiply(a, b, out=out), "cpu") for _ in range(7))


if __name__ == "__main__":
    main()
