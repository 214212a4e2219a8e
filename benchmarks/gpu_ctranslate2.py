"""Sentences per second of CTranslate2, in a process of its own: MODEL DATA_BIN cuda|cpu SENTENCES. Part of `gpu.py`."""

import json
import sys
import time

import ctranslate2
import numpy as np
import torch
from gpu_data import SOURCE, TARGET
from gpu_decoding import SEARCH, rates

from fairseq_kd.export.runtime import load_translator
from fairseq_kd.inference.opening import open_data
from fairseq_kd.sequence.ctranslate2_backend import MAX_TOKENS, CTranslate2Backend


def main() -> None:
    """Measure and print one line of JSON: column -> value."""
    model, data_bin, device, count = sys.argv[1:]
    if device == "cuda" and not ctranslate2.get_cuda_device_count():
        sys.exit(f"CTranslate2 {ctranslate2.__version__} sees no CUDA device")
    task = open_data(data_bin, (SOURCE, TARGET), "train")
    dataset = task.dataset("train")
    every, columns = np.arange(min(int(count), len(dataset))), {"max tokens": MAX_TOKENS[device]}
    for dtype in ("float32", "float16") if device == "cuda" else ("float32",):
        translator = load_translator(model, torch.device(device), dtype)
        backend = CTranslate2Backend(translator, task, dataset, SEARCH.settings(), MAX_TOKENS[device], 1024)
        backend.translate(every[: len(every) // 10], lambda count: None)
        started = time.perf_counter()
        found = backend.translate(every, lambda count: None)
        found = rates(found, time.perf_counter() - started)
        columns |= {f"{name}, {dtype}": value for name, value in found.items()}
    print(json.dumps(columns))


if __name__ == "__main__":
    main()
