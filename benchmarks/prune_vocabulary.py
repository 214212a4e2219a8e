"""How much smaller and faster a teacher with a large vocabulary becomes by `fairseq-kd prune-vocabulary`.

    python benchmarks/prune_vocabulary.py [--entries 128000] [--width 512] [--pairs 100]

A transformer with random weights, one shared embedding and three layers on each side gets a dictionary of --entries
tokens, of which a synthetic corpus uses 116. Both teachers then compute the log-probabilities of the training set
(--pairs sentences), as `cache` and `kd_word` do. Printed: the table of the command, and target tokens per second of
processor time, the best of three runs each.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch


def main() -> None:
    """Make the teacher, prune it, and time both."""
    import fairseq_kd  # noqa: F401
    from fairseq_kd.cli.main import main as run
    from fairseq_kd.cli.main import quiet_libraries
    from fairseq_kd.corpus.entry import text_files
    from fairseq_kd.corpus.prepare import prepare
    from fairseq_kd.corpus.prepare_options import PrepareOptions
    from fairseq_kd.corpus.synthetic import CorpusSpec, write_corpus

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("entries", 128_000), ("width", 512), ("pairs", 100)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "text").mkdir()
        write_corpus(CorpusSpec(pairs=args.pairs, valid=30, test=30), folder / "text")
        files = text_files(folder / "text", "qaa", "qab")
        prepare("text", files, "qaa", "qab", folder / "data", PrepareOptions(vocab_size=120), say=lambda line: None)
        add_entries(folder / "data", args.entries)
        write_teacher(folder / "large.pt", folder / "data", args.width)
        words = [folder / "large.pt", "--data", folder / "data", "--out", folder / "small.pt"]
        assert run(["prune-vocabulary", *map(str, words), "--out-data", str(folder / "small")]) == 0
        with quiet_libraries():
            for checkpoint, data in (("large.pt", "data"), ("small.pt", "small")):
                speed = tokens_per_second(folder / data, folder / checkpoint)
                print(f"{checkpoint}: {speed:,.0f} target tokens per second of processor time")


def add_entries(data_bin: Path, entries: int) -> None:
    """Let the dictionaries end with tokens that no sentence uses. The manifest, which has their hashes, is removed."""
    (data_bin / "manifest.json").unlink()
    for lang in ("qaa", "qab"):
        path = data_bin / f"dict.{lang}.txt"
        known = path.read_text()
        path.write_text(known + "".join(f"unused{n} 1\n" for n in range(entries - 4 - known.count("\n"))))
    for path in sorted((data_bin / "subword").iterdir()):
        path.unlink()
    (data_bin / "subword").rmdir()


def write_teacher(path: Path, data_bin: Path, width: int) -> None:
    """A checkpoint of fairseq-train before its first update."""
    from fairseq import tasks
    from fairseq.trainer import Trainer

    from fairseq_kd.models.building import parse

    words = [str(data_bin), "--arch", "transformer", "--share-all-embeddings", "--optimizer", "adam", "--cpu"]
    for side in ("encoder", "decoder"):
        words += [f"--{side}-layers", "3", f"--{side}-embed-dim", str(width), f"--{side}-ffn-embed-dim", str(4 * width)]
    cfg = parse(words)
    task = tasks.setup_task(cfg.task)
    trainer = Trainer(cfg, task, task.build_model(cfg.model), task.build_criterion(cfg.criterion))
    trainer.consolidate_optimizer()
    trainer.save_checkpoint(str(path), {"train_iterator": {"epoch": 1}})


def tokens_per_second(data_bin: Path, checkpoint: Path) -> float:
    """Target tokens per second of processor time, log-probabilities of the training set, the best of three runs."""
    from fairseq_kd.inference.loading import load_pair
    from fairseq_kd.inference.opening import gold_batches

    model, task = load_pair(data_bin, checkpoint, "train")
    pad, best = task.target_dictionary.pad(), 0.0
    for _ in range(3):
        start, tokens = time.process_time(), 0
        batches = gold_batches(task.dataset("train"), pad, torch.device("cpu"), "log-probabilities", max_tokens=1000)
        for sample, keep in batches:
            signal = model.signal(sample, keep)
            for begin in range(0, len(signal), 100):
                tokens += len(signal.rows(begin, begin + 100))
        best = max(best, tokens / (time.process_time() - start))
    return best


if __name__ == "__main__":
    main()
