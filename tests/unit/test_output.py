"""Printing never decides about a result, and a command that a signal ends says so and cleans up."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fairseq_kd.artifacts.writing import file_in_progress, write_text
from fairseq_kd.cli.main import main

REPOSITORY = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "fairseq_kd.cli.main"]


@pytest.fixture
def prints_then_writes(monkeypatch, tmp_path):
    """`fairseq-kd doctor` as a command that prints before, between and after its work."""

    def run(args):
        print("23.4 ± 0.5 (μ = 23.4)", flush=True)
        print("more" * 10_000, flush=True)
        write_text(tmp_path / "result", "complete")
        print("wrote it")
        return 1

    monkeypatch.setattr("fairseq_kd.cli.doctor.run", run)
    return tmp_path / "result"


def stdout_on(monkeypatch, descriptor: int, encoding="utf-8"):
    stream = io.TextIOWrapper(os.fdopen(descriptor, "wb"), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    return stream


def test_a_terminal_of_ascii_gets_escapes(prints_then_writes, monkeypatch, tmp_path):
    stream = stdout_on(monkeypatch, os.open(tmp_path / "stdout", os.O_CREAT | os.O_WRONLY), "ascii")
    assert main(["doctor"]) == 1
    assert prints_then_writes.read_text() == "complete"
    assert (tmp_path / "stdout").read_text().splitlines()[0] == r"23.4 \xb1 0.5 (\u03bc = 23.4)"
    assert sys.stdout is stream and stream.errors == "strict"


def test_a_closed_pipe_keeps_the_status_and_the_result(prints_then_writes, monkeypatch, capsys):
    reading, writing = os.pipe()
    os.close(reading)
    stream = stdout_on(monkeypatch, writing)
    assert main(["doctor"]) == 1
    assert prints_then_writes.read_text() == "complete"
    assert capsys.readouterr().err == ""
    stream.close()  # as Python does at its exit


def test_a_full_standard_output_is_one_error_after_the_work(prints_then_writes, monkeypatch, capsys):
    stream = stdout_on(monkeypatch, os.open("/dev/full", os.O_WRONLY))
    assert main(["doctor"]) == 2
    assert prints_then_writes.read_text() == "complete"
    error = capsys.readouterr().err
    assert error.startswith("fairseq_kd: error: standard output cannot be written (No space left on device)")
    assert error.count("\n") == 1
    stream.close()


def test_streams_that_were_closed_before_the_start_change_nothing(prints_then_writes, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["doctor"]) == 1
    assert prints_then_writes.read_text() == "complete"
    assert sys.stdout is None and sys.stderr is None


@pytest.mark.parametrize(("stdout", "status"), [("closed", 0), ("/dev/full", 2)])
def test_python_adds_nothing_at_its_exit(stdout, status):
    if stdout == "closed":
        reading, descriptor = os.pipe()
        os.close(reading)
    else:
        descriptor = os.open(stdout, os.O_WRONLY)
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    found = subprocess.run([*COMMAND, "--help"], stdout=descriptor, stderr=subprocess.PIPE, env=environment, text=True)
    os.close(descriptor)
    assert found.returncode == status
    assert found.stderr.count("\n") == (status != 0) and "Traceback" not in found.stderr


@pytest.fixture
def interrupts():
    """A shell that starts the tests in the background lets them ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
@pytest.mark.parametrize(("number", "status", "word"), [(signal.SIGTERM, 143, "term"), (signal.SIGINT, 130, "interr")])
def test_a_signal_is_a_message_and_leaves_no_temporary_files(number, status, word, monkeypatch, capsys, tmp_path):
    def run(args):
        with file_in_progress(tmp_path / "result"):
            os.kill(os.getpid(), number)
            time.sleep(10)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("fairseq_kd.cli.doctor.run", run)
    assert main(["doctor"]) == status
    assert capsys.readouterr().err == f"{word}{'inated' if word == 'term' else 'upted'}; give the same command again\n"
    assert list(tmp_path.iterdir()) == [] and signal.getsignal(signal.SIGTERM) == before


def test_a_forked_worker_ends_by_the_signal_itself(monkeypatch):
    def run(args):
        if (child := os.fork()) == 0:
            if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:  # Python runs a handler only between its steps
                os._exit(1)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == signal.SIGTERM

    monkeypatch.setattr("fairseq_kd.cli.doctor.run", run)
    assert main(["doctor"]) == 0


def test_a_mapped_file_that_shrinks_ends_with_a_message(tmp_path):
    (tmp_path / "data").write_bytes(b"x" * 20_000)
    code = (
        "import mmap, os, sys\n"
        "sys.argv[0] = 'fairseq-kd'\n"  # without fairseq
        "from fairseq_kd.core.process import show_fatal_signals\n"
        "show_fatal_signals()\n"
        f"file = open({str(tmp_path / 'data')!r}, 'r+b')\n"
        "mapped = mmap.mmap(file.fileno(), 0)\n"
        "os.truncate(file.name, 0)\n"
        "mapped[10_000]\n"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
    assert found.returncode == -signal.SIGBUS
    assert found.stderr.startswith("Fatal Python error: Bus error")


def test_a_file_that_was_removed_is_one_error(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("fairseq_kd.cli.doctor.run", lambda args: (tmp_path / "gone").read_bytes())
    assert main(["doctor"]) == 2
    assert capsys.readouterr().err.startswith(f"fairseq_kd: error: {tmp_path / 'gone'}: No such file or directory; it")


@pytest.mark.usefixtures("interrupts")
def test_an_interrupted_study_ends_its_stages_at_once(tmp_path):
    from fairseq_kd.study.run import _interrupt

    ready = tmp_path / "ready"
    stages = f"sleep 60 & trap 'exit 7' INT; touch {ready}; wait; touch {tmp_path / 'next'}; sleep 60"
    process = subprocess.Popen(["bash", "-c", stages], start_new_session=True)
    while not ready.exists():
        time.sleep(0.01)
    started = time.monotonic()
    _interrupt(process)
    assert process.returncode == 7 and time.monotonic() - started < 5
    assert not (tmp_path / "next").exists()
    os.killpg(process.pid, signal.SIGKILL)


def test_pools_of_workers_end(tmp_path):
    """Workers that were ended by a signal while they waited for a lock left it taken, and the command hung."""
    code = (
        "import sys\n"
        "sys.argv[0] = 'fairseq-kd'\n"  # without fairseq
        "from fairseq_kd.core.process import map_lines, signals_that_end\n"
        "with signals_that_end():\n"
        "    for _ in range(100):\n"
        "        with map_lines(str.upper, 2) as upper:\n"
        "            assert upper(['a', 'b']) == ['A', 'B']\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, timeout=60)
