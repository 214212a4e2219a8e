"""Make older.tar.xz; see README.md. Run with the code of commit 573b9ec, copied to /tmp/older/code:

    cd /tmp/older/code && PYTHONPATH=$PWD python PATH/TO/make.py /tmp/older/work

The argument is a new folder. The commands run with absolute paths below it, which tests/unit/test_older_artifacts.py
replaces where a later command reads them.
"""

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

SIZES = {
    "arch": "transformer",
    **{f"{side}-layers": 1 for side in ("encoder", "decoder")},
    **{f"{side}-embed-dim": 8 for side in ("encoder", "decoder")},
    **{f"{side}-ffn-embed-dim": 8 for side in ("encoder", "decoder")},
    **{f"{side}-attention-heads": 1 for side in ("encoder", "decoder")},
}
STUDY = """\
data: {name: text, source-lang: qaa, target-lang: qab, vocab-size: 64, raw: RAW}
common: {max-tokens: 200, save-interval-updates: 10, keep-interval-updates: 1, optimizer: adam, lr: 0.01}
student:
  arch: transformer
  share-all-embeddings: true
  encoder-layers: 1
  decoder-layers: 1
  encoder-embed-dim: 8
  decoder-embed-dim: 8
  encoder-ffn-embed-dim: 8
  decoder-ffn-embed-dim: 8
  encoder-attention-heads: 1
  decoder-attention-heads: 1
budget: {student: 60}
evaluate: {beam: 1, max-len-a: 0, max-len-b: 5}
factors: {method: [ce], seed: [1, 2]}
"""
SHORT = [*("--max-len-a", "0", "--max-len-b", "8"), "--cpu"]


def kd(*words):
    command = [sys.executable, "-m", "fairseq_kd.cli.main", *map(str, words)]
    print(" ".join(command[2:]), flush=True)
    subprocess.run(command, check=True)


def write_corpus(raw: Path):
    from fairseq_kd.corpus import synthetic

    synthetic.write_corpus(synthetic.CorpusSpec(pairs=60, valid=6, test=8), raw)


def train(work: Path):
    """A teacher, by stock fairseq-train without the plugin."""
    options = SIZES | {"optimizer": "adam", "lr": 0.01, "max-tokens": 200, "num-workers": 0}
    options |= {"criterion": "label_smoothed_cross_entropy", "max-update": 100, "seed": 1}
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    words += ["--share-all-embeddings", "--cpu", "--no-epoch-checkpoints", "--no-save-optimizer-state"]
    command = [sys.executable, "-m", "fairseq_cli.train", work / "data-bin", *words, "--save-dir", work / "train"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (work / "train" / "checkpoint_last.pt").rename(work / "teacher.pt")
    shutil.rmtree(work / "train")


def blocks(work: Path):
    """A finished and an unfinished cache, and the same of a decoded data-bin: blocks far below the usual size."""
    from fairseq_kd.cache.make import CachingOptions, make_cache
    from fairseq_kd.sequence.decode import decode
    from fairseq_kd.sequence.decode_options import DecodeOptions

    caching = CachingOptions(top_k=4, cpu=True, tail_shapes=2)
    decoding = DecodeOptions(strategy="beam", beam=2, max_len_a=0, max_len_b=5, backend="fairseq", cpu=True)
    for end, shard in (("", (0, 1)), ("-unfinished", (0, 2))):
        paths = work / "data-bin", work / "teacher.pt", work / f"cache{end}"
        make_cache(*paths, caching, shard, block_tokens=300)
        paths = work / "data-bin", str(work / "teacher.pt"), work / f"decoded{end}"
        decode(*paths, decoding, shard=shard, block_sentences=10)


def study(work: Path):
    """A study with one finished student, which is killed in the training of the second."""
    spec, folder = work / "study.yaml", work / "study"
    spec.write_text(STUDY.replace("RAW", str(work / "raw")))
    words = [sys.executable, "-m", "fairseq_kd.cli.main", "study", "run", spec, "--out", folder, "--cpu", "--jobs", "1"]
    process = subprocess.Popen(words)
    while True:
        students = list(folder.glob("stages/student-*"))
        saved = {path: list(path.glob("checkpoints/checkpoint_*_[1-4]0.pt")) for path in students}
        done = {path for path in students if (path / "done.json").exists()}
        if done and any(found for path, found in saved.items() if path not in done):
            break
        assert process.poll() is None, "the study ended before it was killed"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    time.sleep(5)  # its jobs end with it
    for name in (".snakemake", "snakemake.log", "cells"):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in folder.rglob("*"):
        if path.name in (".lock",) or (path.name.endswith(".log") and path.name != "train.log"):
            path.unlink()
    for path in folder.glob("stages/student-*/checkpoints/*.pt"):
        if path.name != "checkpoint_last.pt" and (path.parents[1] / "done.json").exists():
            path.name == "checkpoint_best.pt" or path.unlink()


def main(work: Path):
    work.mkdir()
    data_bin, raw = work / "data-bin", work / "raw"
    raw.mkdir()
    write_corpus(raw)
    languages = ("--source-lang", "qaa", "--target-lang", "qab")
    kd("prepare", "text", *languages, "--raw", raw, "--vocab-size", 64, "--out", data_bin)
    train(work)
    kd("noise", "--data-bin", data_bin, "--delete", 0.2, "--swap", 0.1, "--side", "both", "--out", work / "noised")
    for beam in (1, 4):
        evaluate = ["evaluate", data_bin, "--checkpoint", work / "teacher.pt", "--beam", beam, *SHORT]
        kd(*evaluate, "--out", work / f"beam-{beam}.json")
    compare = ["compare", work / "beam-1.json", work / "beam-4.json", "--paired-bs-n", 100, "--paired-ar-n", 100]
    kd(*compare, "--out", work / "comparison.json")
    blocks(work)
    kd("mix", data_bin, work / "decoded", "--times", 1, 1, "--out", work / "mixed")
    study(work)
    with tarfile.open(work.parent / "older.tar.xz", "w:xz", preset=9) as archive:
        archive.add(work, ".", filter=lambda info: None if info.name.endswith(".lock") else info)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
