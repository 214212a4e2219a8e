"""Processes that a server forks (core/preloaded.py) are what the interpreter of Python makes of the same words."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

from fairseq_kd.core import preloaded
from fairseq_kd.core.preloaded import SERVER, ForkedPython, preloaded_python, run_python, start_python

PROGRAM = """
import atexit, os, sys
atexit.register(print, "at exit")
print(__name__, sys.argv[1:], sys.orig_argv[1:], os.getcwd() == sys.path[0])
print(sorted(name for name in sys.modules if name.startswith(("fairseq_kd", "fairseq_cli"))), os.environ["MINE"])
print("to the same", file=sys.stderr)
exec(sys.argv[1])
"""
ENDINGS = {
    "end": "pass",
    "status": "sys.exit(3)",
    "message": "sys.exit('reason')",
    "interrupt": "os.kill(os.getpid(), 2)",
    "kill": "sys.stdout.flush(); os.kill(os.getpid(), 9)",
}
SLEEPER = """
import os, pathlib, sys, time
try:
    pathlib.Path("began").write_text(str(os.getpid()))
    time.sleep(100)
except KeyboardInterrupt:
    pathlib.Path("tidied").touch()
    sys.exit(7)
"""
STATES = "import random, numpy, torch; print(random.random(), numpy.random.rand(), torch.initial_seed())"


@pytest.fixture(scope="module")
def server():
    """The environment in which the server is found."""
    given = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    given = given | {"MINE": "1", "PYTHONPATH": str(ROOT)}
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a background job of a shell script
    with preloaded_python(given) as environment:
        signal.signal(signal.SIGINT, before)
        yield environment


@pytest.fixture
def here(server, tmp_path, monkeypatch):
    """A folder with programs, the working directory of a process that finds the server."""
    for name, text in {"program": PROGRAM, "sleeper": SLEEPER, "states": STATES}.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    for name in ("MINE", "PYTHONPATH", SERVER):
        monkeypatch.setenv(name, server[name])
    return tmp_path


@contextlib.contextmanager
def outside_pytest():
    """Without the variable that pytest changes from test to test."""
    value = os.environ.pop("PYTEST_CURRENT_TEST")
    try:
        yield
    finally:
        os.environ["PYTEST_CURRENT_TEST"] = value


def output_of(*words, threads=None) -> tuple[int, list[str]]:
    """Exit status and printed lines of a process that the server has forked."""
    with open("output", "w+") as file, outside_pytest():
        process = start_python([*words], file.fileno(), threads=threads)
        assert isinstance(process, ForkedPython)
        status = process.wait(60)
        file.seek(0)
        return status, file.read().splitlines()


def wait_for(found) -> None:
    deadline = time.monotonic() + 60
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_fork_does_what_an_interpreter_does(here, ending):
    status, lines = output_of("program", ENDINGS[ending], "--option")
    command = [sys.executable, "-m", "program", ENDINGS[ending], "--option"]
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    interruptible = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731 - also where pytest ignores it
    expected = subprocess.run(command, **how, preexec_fn=interruptible)
    found = expected.stdout.splitlines()
    if ending == "interrupt":  # the trace has the lines of runpy
        lines, found = ([line for line in some if line[0] not in " T"] for some in (lines, found))
    assert (status, sorted(lines)) == (expected.returncode, sorted(found))
    assert "__main__ " in "".join(lines) and "[] 1" in lines


def test_a_process_has_the_threads_that_are_asked_for(here, monkeypatch):
    count = "import torch; print(torch.get_num_threads())"
    assert [output_of("program", count, threads=threads)[1][-2] for threads in (1, 3)] == ["1", "3"]
    monkeypatch.delenv(SERVER)  # an interpreter
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with open("output", "w+") as file:
        assert start_python(["program", count], file.fileno(), threads=1).wait() == 0
        file.seek(0)
        assert file.read().splitlines()[-2] == "1"


def test_each_process_begins_with_random_states_of_its_own(here):
    first, second = (output_of("states")[1][0].split() for _ in range(2))
    assert len(first) == 3 and all(one != other for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("killed", ["the process that asks", "the server"])
def test_a_fork_ends_with(here, server, killed):
    with contextlib.ExitStack() as stack:
        if killed == "the server":  # one of its own
            given = {name: value for name, value in server.items() if name != SERVER}
            os.environ[SERVER] = stack.enter_context(preloaded_python(given))[SERVER]
        if (asks := os.fork()) == 0:
            del os.environ["PYTEST_CURRENT_TEST"]
            os._exit(100 - start_python(["sleeper"]).wait())
        wait_for(lambda: (here / "began").is_file() and (here / "began").read_text())
        sleeper = int((here / "began").read_text())
        assert is_running(sleeper)
        if killed == "the process that asks":
            os.kill(asks, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(asks, 0)[1])
    assert status == (-9 if killed == "the process that asks" else 100 + signal.SIGKILL)
    wait_for(lambda: not is_running(sleeper))


def test_an_interrupt_reaches_the_fork_which_can_tidy_up(here, monkeypatch):
    monkeypatch.setattr(preloaded, "SECONDS_TO_END", 30)  # on busy cores it takes longer than usual

    def start(words):
        process = start_python(words)
        (here / "started").touch()
        return process

    monkeypatch.setattr(preloaded, "start_python", start)
    if (asks := os.fork()) == 0:
        del os.environ["PYTEST_CURRENT_TEST"]
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with contextlib.suppress(KeyboardInterrupt):
            run_python(["sleeper"])
        os._exit(0)
    wait_for(lambda: (here / "started").is_file() and (here / "began").is_file() and (here / "began").read_text())
    state = Path(f"/proc/{asks}/stat")
    wait_for(lambda: state.read_text().rpartition(")")[2].split()[0] == "S")  # the process that asks waits now
    os.kill(asks, signal.SIGINT)
    os.waitpid(asks, 0)
    assert (here / "tidied").exists()
    assert not is_running(int((here / "began").read_text()))


def test_another_environment_gets_an_interpreter_of_its_own(here, monkeypatch, capfd):
    monkeypatch.setenv("OMP_NUM_THREADS", "77")
    with outside_pytest():
        assert run_python(["program", "sys.exit(5)"]) == 5
    assert "program loads torch and fairseq itself: " in (said := capfd.readouterr().err)
    assert "has another value of OMP_NUM_THREADS\n" in said


def test_a_system_without_descriptors_of_processes_gets_interpreters(monkeypatch, capfd):
    monkeypatch.delattr(os, "pidfd_open")
    with preloaded_python() as environment:
        assert environment is os.environ and not preloaded.has_server()
    assert "this system cannot fork loaded processes" in capfd.readouterr().err
