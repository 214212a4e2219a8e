"""Commands in forks (process_helpers.py) are what the interpreter of Python makes of the same words."""

import os
import subprocess
import sys
import time

import pytest
from process_helpers import Process, run_python

PROGRAM = """
import atexit, os, sys
atexit.register(print, "at exit")
print(__name__, sys.argv, sys.orig_argv[1:], repr(sys.path[0]), sys.path[1].endswith("beside"))
print(os.getcwd(), os.environ["MINE"])
print("fairseq_kd" in sys.modules, sys.stdin.read() == "", file=sys.stderr)
exec(sys.argv[1])
"""
ENDINGS = {
    "end": "pass",
    "status": "sys.exit(3)",
    "message": "sys.exit('reason')",
    "error": "1 / 0",
    "interrupt": "os.kill(os.getpid(), 2)",
    "kill": "sys.stdout.flush(); os.kill(os.getpid(), 9)",
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("kind", ["module", "code", "script"])
def test_a_fork_does_what_an_interpreter_does(kind, ending, tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    words = {"module": ["-m", "program"], "code": ["-c", PROGRAM], "script": [str(tmp_path / "program.py")]}[kind]
    words += [ENDINGS[ending], "--option"]
    environment = os.environ | {"MINE": "1", "PYTHONPATH": "beside"}
    found = run_python(*words, cwd=tmp_path, env=environment)
    options = {"cwd": tmp_path, "env": environment, "stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
    expected = subprocess.run([sys.executable, *words], **options)
    assert (found.returncode, found.stdout) == (expected.returncode, expected.stdout)
    lines = [result.stderr.splitlines() for result in (found, expected)]
    assert (lines[0][0], lines[0][-1]) == (lines[1][0], lines[1][-1])  # the frames of a traceback differ


def test_a_fork_that_runs_is_seen_to_run_and_can_be_killed():
    process, began = Process("-c", "import time; time.sleep(60)"), time.monotonic()
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    os.kill(process.pid, 9)
    assert process.communicate() == ("", "") and process.returncode == process.poll() == -9
    assert time.monotonic() - began < 50


def test_two_forks_run_at_the_same_time(tmp_path):
    wait = "import sys, time; from pathlib import Path; Path(sys.argv[1]).touch()\n"
    wait += "while not Path(sys.argv[2]).exists(): time.sleep(0.01)"
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    assert [process.wait(60) for process in [Process("-c", wait, a, b), Process("-c", wait, b, a)]] == [0, 0]
