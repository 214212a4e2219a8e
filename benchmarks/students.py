"""How fast are small students? Compacted against gated, and exported to CTranslate2 against fairseq-generate.

Usage: python benchmarks/students.py DATA_BIN [--adaptive CHECKPOINT | --arch kd_adaptive_17m --keep 0.5]
                                     [--export CHECKPOINT] [--subset test] [--sentences N] [--beam 5] [--rounds 3]

1. A kd_adaptive student is translated with as it is, and after its closed gates were cut out, in turn, by the batches
   and the search of `fairseq-kd evaluate`. Without --adaptive nothing is trained: the student has the dimensions of
   --arch, random weights, and as many random gates closed as leave --keep of its parameters. Both then write hypotheses
   of one length, the mean of the references; their outputs are equal, so they would anyway end at the same step.
2. With --export: the CTranslate2 model with 8-bit weights against the command fairseq-generate, which runs once with
   each --max-tokens and then in turn with the fastest. Its seconds are its own count, without loading; so are ours.
   Both have one thread for each core.

Printed: medians, and their ratio. The second part needs a DATA_BIN of `fairseq-kd prepare`.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from decode import generated

from fairseq_kd import register
from fairseq_kd.evaluation.segments import read_segments
from fairseq_kd.evaluation.system import TranslateOptions, open_system
from fairseq_kd.export.runtime import load_translator, symbols, write_model
from fairseq_kd.inference.opening import infer_languages, open_data
from fairseq_kd.models.building import build
from fairseq_kd.models.compact import compact_checkpoint, compact_weights
from fairseq_kd.scoring.score import choose_scorer
from fairseq_kd.sequence.backend import FairseqBackend
from fairseq_kd.sequence.ctranslate2_backend import CTranslate2Backend

PACKAGE = Path(__file__).resolve().parent.parent / "fairseq_kd"
EXPORTED_MAX_TOKENS = (256, 1024)  # a batch; fairseq-generate has --max-tokens
CPU = torch.device("cpu")


def close_gates(model, keep: float, seed: int = 1) -> None:
    """Open all gates and close random ones, until `keep` of the parameters are left."""
    gates = model.capacity.gates
    with torch.no_grad():
        for gate in gates.values():
            gate.score.fill_(9.0)
        order = [(name, number) for name, gate in gates.items() for number in range(len(gate.score))]
        order = [order[place] for place in np.random.default_rng(seed).permutation(len(order))]
        low, high = 0, len(order)  # how many of them to close
        while low < high:
            middle = (low + high) // 2
            for place, (name, number) in enumerate(order):
                gates[name].score[number] = -9.0 if place < middle else 9.0
            low, high = (middle + 1, high) if model.capacity.report()["capacity_kept"] > keep else (low, middle)
    assert abs(model.capacity.report()["capacity_kept"] - keep) < 0.02, "the gates cannot leave so few parameters"


def untrained(arch: str, data_bin: str, keep: float):
    """(gated, compact), in eval mode, with random weights."""
    torch.manual_seed(1)
    gated, args = build(arch, data_bin, ["--capacity-target", str(keep)], device="cpu")
    close_gates(gated, keep)
    weights = {name: value for name, value in gated.state_dict().items() if name != "_extra_state"}
    weights, widths = compact_weights(weights, args)
    words = [word for name, value in widths.items() for word in (f"--{name.replace('_', '-')}", value)]
    compact, _ = build(arch.replace("kd_adaptive", "kd_student"), data_bin, words, device="cpu")
    compact.load_state_dict(weights)
    return gated.eval(), compact.eval()


def size(model) -> int:
    """Parameters, without gates."""
    return sum(value.numel() for name, value in model.named_parameters() if not name.endswith("gates.score"))


def timed(translate, sentences) -> tuple[float, list]:
    """Seconds, and the first hypothesis of each sentence."""
    started = time.perf_counter()
    found = translate(sentences, lambda count: None)
    return time.perf_counter() - started, [found[int(number)][0].tokens.tolist() for number in sentences]


def opened(checkpoint, args):
    """The model of a checkpoint on the subset."""
    sentences = len(read_segments(args.data_bin, args.subset).references)
    return open_system(checkpoint, args.data_bin, args.subset, TranslateOptions(cpu=True), sentences)


def compact_against_gated(args, scratch: Path) -> None:
    """Part 1."""
    settings = {"beam": args.beam, "lenpen": 1.0, "max_len_a": 0.0, "max_len_b": 200}
    settings |= {"nbest": 1, "sampling": False}
    if args.adaptive:
        compact_checkpoint(args.adaptive, scratch / "small.pt")
        system, compact = opened(args.adaptive, args), opened(scratch / "small.pt", args).model
        gated, task = system.model, system.task
        what = args.adaptive
    else:
        gated, compact = untrained(args.arch, args.data_bin, args.keep)
        task = open_data(args.data_bin, infer_languages(args.data_bin), args.subset)
        length = round(float(np.mean(task.dataset(args.subset).tgt_sizes)))
        settings |= {"min_len": length, "max_len_b": length}
        what = f"{args.arch}, untrained, {length} tokens a hypothesis"
    dataset = task.dataset(args.subset)
    sentences = np.arange(min(len(dataset), args.sentences))
    search = argparse.Namespace(**settings)
    models = {"gated": gated, "compact": compact}
    backends = {
        name: FairseqBackend([model], task, dataset, search, args.max_tokens[-1], CPU) for name, model in models.items()
    }
    seconds, hypotheses = {name: [] for name in models}, {}
    for _ in range(args.rounds):
        for name, backend in backends.items():
            spent, hypotheses[name] = timed(backend.translate, sentences)
            seconds[name].append(spent)
    same = np.mean([ours == theirs for ours, theirs in zip(*hypotheses.values(), strict=True)])
    print(f"{what}: {len(sentences):,} sentences of {args.subset}, --max-tokens {args.max_tokens[-1]}")
    for name, model in models.items():
        report(name, len(sentences), seconds[name], seconds["gated"], f"{size(model):,} parameters")
    print(f"same hypotheses: {100 * same:.2f} %")


def generate(args, max_tokens: int, log: Path) -> float:
    """The command fairseq-generate; return the seconds that it counts itself."""
    words = [sys.executable, "-m", "fairseq_cli.generate", args.data_bin, "--path", args.export, "--cpu"]
    words += ["--user-dir", PACKAGE, "--gen-subset", args.subset, "--beam", args.beam, "--max-tokens", max_tokens]
    words += ["--required-batch-size-multiple", 1, "--num-workers", 0]
    with open(log, "w") as out:
        subprocess.run([str(word) for word in words], stdout=out, stderr=subprocess.STDOUT, check=True)
    return float(re.search(r"Translated .* in ([\d.,]+)s", log.read_text())[1].replace(",", ""))


def exported_against_generate(args, scratch: Path) -> None:
    """Part 2."""
    segments, system = read_segments(args.data_bin, args.subset), opened(args.export, args)
    model, task, dataset = system.model, system.task, system.dataset
    write_model(model, task.source_dictionary, task.target_dictionary, scratch / "int8", "int8")
    translator = load_translator(scratch / "int8", CPU, "default")
    settings = {"beam": args.beam, "max_len_a": 0.0, "max_len_b": 200}
    limit, every, log = model.max_positions()[1], np.arange(len(dataset)), scratch / "log"
    backends = {
        number: CTranslate2Backend(translator, task, dataset, settings, number, limit, symbols)
        for number in EXPORTED_MAX_TOKENS
    }
    trials = {number: round(timed(backend.translate, every)[0], 1) for number, backend in backends.items()}
    backend = backends[min(trials, key=trials.get)]
    tried = {number: generate(args, number, log) for number in args.max_tokens}
    best = min(tried, key=tried.get)
    print(f"{args.export}: {len(dataset):,} sentences of {args.subset}, {size(model):,} parameters")
    for name, all_spent in (("fairseq-generate", tried), ("exported", trials)):
        print(f"{name}: " + ", ".join(f"{spent} s in batches of {number}" for number, spent in all_spent.items()))
    scorer = choose_scorer(task.cfg.target_lang, None, segments.references)
    theirs, ours = [], []
    for _ in range(args.rounds):
        theirs.append(generate(args, best, log))
        spent, tokens = timed(backend.translate, every)
        ours.append(spent)
    lines = {
        "fairseq-generate": generated(log),
        "exported, int8": [task.target_dictionary.string(torch.tensor(row)) for row in tokens],
    }
    for (name, found), seconds in zip(lines.items(), (theirs, ours), strict=True):
        bleu = scorer.score_by("bleu", [segments.decode(line) for line in found], segments.references)
        report(name, len(dataset), seconds, theirs, f"{bleu['score']:.2f} BLEU")
    same = np.mean([ours == theirs for ours, theirs in zip(*lines.values(), strict=True)])
    print(f"same hypotheses: {100 * same:.2f} %; computed in {translator.compute_type}; {bleu['signature']}")


def report(name: str, count: int, seconds: list[float], baseline: list[float], note: str) -> None:
    """One line of a table."""
    spread = f"{min(seconds):.1f} to {max(seconds):.1f}"
    rate, ratio = count / median(seconds), median(baseline) / median(seconds)
    print(f"{name:18}{median(seconds):8.1f} s ({spread}){rate:9.1f} /s{ratio:8.2f} x   {note}")


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_bin")
    parser.add_argument("--adaptive", help="a trained kd_adaptive student, for part 1")
    parser.add_argument("--arch", default="kd_adaptive_17m")
    parser.add_argument("--keep", type=float, default=0.5)
    parser.add_argument("--export", help="a student, for part 2")
    parser.add_argument("--subset", default="test")
    parser.add_argument("--sentences", type=int, default=1000, help="of part 1")
    parser.add_argument("--beam", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, nargs="+", default=[2000, 4000, 12000], help="the last: part 1")
    args = parser.parse_args()
    register()
    print(f"{len(os.sched_getaffinity(0))} cores, torch {torch.__version__} with {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as scratch:
        compact_against_gated(args, Path(scratch))
        if args.export:
            exported_against_generate(args, Path(scratch))


if __name__ == "__main__":
    main()
