"""A training on the CPU keeps freed memory: the switch, the log, and what glibc then does."""

import logging
import sys

import pytest
from conftest import TINY_MODEL, assert_user_error, run_fairseq
from process_helpers import run_python

from fairseq_kd.core.errors import KDError
from fairseq_kd.training.memory import OF_GLIBC, SWITCH, keep_memory

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
# tensors of 16 MiB are freed; the kernel then counts the pages that the process still has
PROGRAM = """
import sys
from fairseq_kd.training.memory import keep_memory
import torch
print(keep_memory(), file=sys.stderr)
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20
made = [torch.ones(4 * 2**20) for _ in range(8)]
before = resident()
del made
print(before - resident())
"""


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in (SWITCH, *OF_GLIBC):
        monkeypatch.delenv(name, raising=False)


@LINUX
@pytest.mark.parametrize(("value", "kept"), [("0", False), ("1", True)])
def test_what_is_freed_stays_in_the_process(value, kept, monkeypatch):
    monkeypatch.setenv(SWITCH, value)
    result = run_python("-c", PROGRAM)
    assert result.returncode == 0, result.stderr
    returned = float(result.stdout)  # MiB, of 128
    assert returned < 20 if kept else returned > 100
    assert SWITCH in result.stderr


def test_a_value_that_is_neither_0_nor_1_is_an_error(monkeypatch):
    monkeypatch.setenv(SWITCH, "yes")
    with pytest.raises(KDError, match=r"FAIRSEQ_KD_KEEP_MEMORY=yes: must be 1 .* or 0"):
        keep_memory()


def test_variables_of_the_user_stay_in_effect(monkeypatch):
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "4")
    assert keep_memory() == "MALLOC_MMAP_MAX_ of the environment decides what happens to freed memory"


@LINUX
def test_a_stock_training_with_the_plugin_says_it(data_bin, tmp_path, monkeypatch):
    words = [data_bin, *TINY_MODEL, "--max-update", "1", "--no-save", "--disable-validation", "--save-dir", tmp_path]
    result = run_fairseq("train", *words)
    assert result.returncode == 0, result.stderr[-2000:]
    line = "freed memory is kept for the next update"
    assert (result.stdout + result.stderr).count(line) == 1
    result = run_fairseq("train", *words, user_dir=None)
    assert line not in result.stdout + result.stderr
    monkeypatch.setenv(SWITCH, "2")
    assert_user_error(run_fairseq("train", *words), SWITCH)


def test_only_trainings_with_too_many_threads_are_advised(caplog, monkeypatch):
    from fairseq_kd.training import memory

    monkeypatch.setattr(memory, "keep_memory", lambda: "kept")
    monkeypatch.setattr(memory, "usable_cores", lambda: 2)
    monkeypatch.setattr(memory, "busy_cores", lambda: 1.5)
    for threads, count in ((1, 0), (2, 1)):
        monkeypatch.setattr(memory.torch, "get_num_threads", lambda threads=threads: threads)
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger=memory.__name__):
            memory.begin_training_on_cpu()
        assert len(caplog.records) == count
