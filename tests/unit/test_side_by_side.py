"""Runs of fairseq-train at the same time (training/run.py). Small programs take the place of fairseq-train."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fairseq_kd.core.errors import KDError
from fairseq_kd.training import run, running
from fairseq_kd.training.run import Training, train_side_by_side

LINE = '| train_inner | {"num_updates": "%d", "loss": "2.5"}'


@pytest.fixture
def programs(monkeypatch):
    """The words of a training are a Python program. Yields the processes and their numbers of threads."""
    started = []

    def start(words, output, threads):
        process = subprocess.Popen([sys.executable, "-c", words[1]], stdout=output, stderr=output)
        started.append((process, threads))
        return process

    monkeypatch.setattr(running, "start_python", start)
    monkeypatch.setattr(run, "restore_last_checkpoint", lambda checkpoints: 0)
    monkeypatch.setattr(run, "_write_record", lambda training: (training.folder / "train.json").write_text("{}"))
    monkeypatch.setattr(run, "_check_record", lambda path: {"folder": path.parent.name})
    yield started
    for process, _ in started:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()


def trainings(folder: Path, *words: str) -> list[Training]:
    return [Training(folder / str(n), [program], {}, 9, f"training {n}") for n, program in enumerate(words)]


def test_trainings_run_at_the_same_time_and_each_has_its_log_and_its_threads(programs, tmp_path):
    """Each program waits for a file of the other one, so neither could end first alone."""
    program = "import pathlib, time; mine, other = map(pathlib.Path, {!r}); mine.touch()\n"
    program += "while not other.exists(): time.sleep(.01)\nprint('first of', mine.name); print('second')"
    names = [str(tmp_path / name) for name in "ab"]
    records = train_side_by_side(trainings(tmp_path, program.format(names), program.format(names[::-1])), threads=3)
    assert records == [{"folder": "0"}, {"folder": "1"}]
    assert [(tmp_path / n / "train.log").read_text() for n in "01"] == [f"first of {n}\nsecond\n" for n in "ab"]
    assert [threads for _, threads in programs] == [3, 3]
    train_side_by_side(trainings(tmp_path, program.format(names), program.format(names[::-1])), threads=3)
    assert len(programs) == 2  # a complete run is not repeated


def test_the_progress_is_read_from_lines_that_arrive_in_pieces(programs, tmp_path, capsys):
    program = f"import os, time\nfor part in ('x', {LINE % 3 + chr(10)!r}[:30], {LINE % 3 + chr(10)!r}[30:]):\n"
    program += "    os.write(1, part.encode()); time.sleep(.05)\nos.write(1, b'\\xff the end')"
    train_side_by_side(trainings(tmp_path, program))
    assert "training 0: 3/9 updates, loss 2.5" in capsys.readouterr().err
    assert (tmp_path / "0" / "train.log").read_bytes() == b"x" + (LINE % 3).encode() + b"\n\xff the end"


def test_if_one_fails_the_other_is_stopped_and_neither_is_complete(programs, tmp_path):
    began = tmp_path / "began"
    sleeper = f"import pathlib, time; pathlib.Path({str(began)!r}).touch(); time.sleep(100)"
    failing = f"import pathlib, sys, time\nwhile not pathlib.Path({str(began)!r}).exists(): time.sleep(.01)\n"
    failing += "print('the reason'); sys.exit(4)"
    with pytest.raises(KDError, match=r"(?s)ended with status 4; the end of .*1/train\.log:\nthe reason"):
        train_side_by_side(trainings(tmp_path, sleeper, failing))
    assert [process.returncode for process, _ in programs] == [-signal.SIGKILL, 4]
    assert not list(tmp_path.glob("*/train.json"))


def test_an_interrupt_stops_all_of_them(programs, tmp_path):
    sleeper = f"import os, signal, time; os.kill({os.getpid()}, signal.SIGUSR1); time.sleep(100)"

    def interrupt(*_):
        if len(programs) == 2:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    began = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            train_side_by_side(trainings(tmp_path, "import time; time.sleep(100)", sleeper))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert [process.returncode for process, _ in programs] == [-signal.SIGKILL] * 2
    assert time.monotonic() - began < 50
