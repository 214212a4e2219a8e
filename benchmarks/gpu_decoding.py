"""Tokens per second of a cache, sentences per second of decoding. Part of `gpu.py`."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from gpu_data import LENGTH, TAIL_SHAPES, TOP_K, Bench, RandomData
from gpu_report import Section
from train_step import timed

from fairseq_kd.cache.format import CacheFormat
from fairseq_kd.cache.options import CachingOptions
from fairseq_kd.cache.teacher_rows import TeacherRows
from fairseq_kd.export.runtime import numbers, write_model
from fairseq_kd.sequence.backend import MAX_TOKENS, FairseqBackend
from fairseq_kd.sequence.decode_options import DecodeOptions

SEARCH = DecodeOptions(beam=5, max_len_b=LENGTH - 2)
DECODED = 1000  # sentences


def measure(bench: Bench, section: Section) -> None:
    """The first of the vocabularies."""
    data = bench.random(bench.sizes.vocabularies[0])
    section.note(
        f"Random sentences, V = {data.vocabulary:,}, untrained models. Cache: a {bench.sizes.teacher}, {TOP_K} entries "
        f"and {TAIL_SHAPES} tail shapes; rows of all sentences, without hashing and writing. Decoding: "
        f"beam 5; the hypotheses of untrained models nearly all have the {LENGTH - 1} tokens that are allowed."
    )
    for dtype in ("float32", "bfloat16"):
        for max_tokens in (4000, 16_000) if not bench.cpu else (400,):
            labels = {"teacher": dtype, "max tokens": max_tokens}
            section.attempt("cache", labels, lambda: cache_rows(bench, data, dtype, max_tokens))  # noqa: B023
    for arch in bench.sizes.students:
        for dtype in ("float32", "float16", "bfloat16") if not bench.cpu else ("float32",):
            labels = {"model": arch, "backend": "fairseq", "type": dtype}
            section.attempt("decoding", labels, lambda: fairseq_search(bench, data, arch, dtype))  # noqa: B023
        section.attempt("ctranslate2", {"model": arch}, lambda: ctranslate2(bench, data, arch))  # noqa: B023


def cache_rows(bench: Bench, data: RandomData, dtype: str, max_tokens: int) -> dict:
    """The loop of `fairseq-kd cache`, after a first one over a tenth."""
    cache_format = CacheFormat(TOP_K, (1.0,), data.vocabulary, tail_shapes=TAIL_SHAPES, gold=True)
    options = CachingOptions(max_tokens=max_tokens, cpu=bench.cpu, teacher_dtype=dtype)
    rows = TeacherRows(data.teacher(bench.sizes.teacher, dtype), data.task, cache_format, options)
    shapes = torch.randn(1, TAIL_SHAPES, data.vocabulary).log_softmax(dim=-1).numpy()
    every = len(data.dataset)
    rows(0, every // 10, lambda count: None, shapes)
    seconds = timed(lambda: rows(0, every, lambda count: None, shapes), bench.device)
    return {"tokens/s": int(rows.sizes.sum() / seconds)}


def fairseq_search(bench: Bench, data: RandomData, arch: str, dtype: str) -> dict:
    """Our loop around fairseq's beam search, after a first one over a tenth."""
    device = torch.device(bench.device)
    model = data.teacher(arch, dtype).model.to(device)
    search, max_tokens = SEARCH.how.fairseq_arguments(SEARCH.settings()), MAX_TOKENS[bench.device]
    backend = FairseqBackend([model], data.task, data.dataset, search, max_tokens, device)
    every, found = np.arange(min(DECODED, len(data.dataset))), {}
    backend.translate(every[: len(every) // 10], lambda count: None)
    seconds = timed(lambda: found.update(backend.translate(every, lambda count: None)), bench.device)
    return {"max tokens": max_tokens, **rates(found, seconds)}


def rates(found: dict, seconds: float) -> dict:
    """Columns of a row."""
    length = np.mean([len(hypotheses[0].tokens) for hypotheses in found.values()])
    return {"sentences/s": len(found) / seconds, "tokens of a hypothesis": round(float(length), 1)}


def ctranslate2(bench: Bench, data: RandomData, arch: str) -> dict:
    """The same in a process of its own, which a library that does not fit the driver may end."""
    folder = bench.folder / f"ctranslate2-{arch}"
    write_model(data.teacher(arch, "float32").model, *dictionaries(data), folder, names=numbers)
    words = [sys.executable, Path(__file__).with_name("gpu_ctranslate2.py"), folder, data.data_bin]
    result = subprocess.run([*words, bench.device, str(DECODED)], capture_output=True, text=True, timeout=90)
    if result.returncode != 0:
        lines = (result.stderr + result.stdout).strip().splitlines() or [f"status {result.returncode}"]
        return {"result": f"not available: {lines[-1][:200]}"}
    return json.loads(result.stdout.splitlines()[-1])


def dictionaries(data: RandomData):
    """(source, target)."""
    return data.task.source_dictionary, data.task.target_dictionary
