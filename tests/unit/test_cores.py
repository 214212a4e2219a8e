"""Usable and busy cores, and the advice on too many threads."""

import pytest

from fairseq_kd.core import cores
from fairseq_kd.core.cores import advice_on_threads, busy_cores, usable_cores

STAT = """cpu  400 0 400 3200 0 0 0 0 0 0
cpu0 {0} 0 0 {1} 0 0 0 0 0 0
cpu1 {2} 0 0 {3} 10 0 0 0 7 7
cpu9 5 0 0 5 0 0 0 0 0 0
intr 1 2 3
"""


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A system with two usable cores, and the files that say what they do."""
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    monkeypatch.setattr(cores, "STAT", tmp_path / "stat")
    monkeypatch.setattr(cores, "QUOTA", tmp_path / "cpu.max")
    return tmp_path


def test_the_group_s_limit_and_the_affinity_bound_the_cores(system):
    assert usable_cores() == 2
    for text, expected in (("max 100000", 2), ("150000 100000", 1), ("800000 100000", 2), ("50000 100000", 1)):
        (system / "cpu.max").write_text(text)
        assert usable_cores() == expected
    (system / "cpu.max").write_text("damaged")
    assert usable_cores() == 2


def test_busy_cores_from_the_ticks_of_the_usable_ones(system, monkeypatch):
    (system / "stat").write_text(STAT.format(100, 100, 100, 100))

    def pass_time(seconds):  # core 0 works 8 of 10 ticks, core 1 works 1 of 10
        (system / "stat").write_text(STAT.format(108, 102, 101, 109))

    monkeypatch.setattr(cores.time, "sleep", pass_time)
    assert busy_cores() == pytest.approx(0.9)


def test_busy_cores_are_not_known_without_the_file(system, monkeypatch):
    monkeypatch.setattr(cores.time, "sleep", lambda seconds: None)
    assert busy_cores() is None


@pytest.mark.parametrize(
    ("threads", "usable", "busy", "fitting"),
    [(2, 2, 0.1, None), (2, 2, 1.0, 1), (2, 2, None, None), (8, 2, None, 2), (8, 2, 2.0, 1), (1, 1, 1.0, None)],
)
def test_advice(threads, usable, busy, fitting):
    advice = advice_on_threads(threads, usable, busy)
    assert (advice is None) == (fitting is None)
    if fitting:
        assert f"set OMP_NUM_THREADS={fitting}" in advice
        assert ("other work occupies" in advice) == (busy is not None)
