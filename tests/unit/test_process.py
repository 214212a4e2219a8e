"""How a process that loaded the plugin ends."""

from process_helpers import run_python

# Each child of the script ends as an interpreter ends, with a reader at work: as one that waits for the workers of its
# data loader and is then inside torch. Its queue never fills, is full, or has room for whatever comes.
ENDINGS = """
import atexit, os, queue, sys, threading, time
import torch
from fairseq.data.iterators import BackgroundConsumer

def look():  # called last, since it was registered first
    print(f"{case}: at exit {reader.is_alive()}", flush=True)

atexit.register(look)
from fairseq_kd.core.errors import KDError

waiting = threading.Condition()

def batches():
    while True:
        with waiting:
            waiting.wait(0.02)
        yield torch.ones(300, 300) @ torch.ones(300, 300)

def fail(error):
    raise error

cases = {
    "good": (1000, lambda: None),
    "status 3": (1, lambda: sys.exit(3)),
    "error": (0, lambda: fail(ValueError("its own"))),
    "user error": (1, lambda: fail(KDError("of the user"))),
}
for case, (size, end) in cases.items():
    if (pid := os.fork()) == 0:
        reader = BackgroundConsumer(queue.Queue(size), batches(), None, None)
        reader.daemon = True
        reader.start()
        time.sleep(0.1)
        end()
        sys.exit(0)
    print(f"{case}: status {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}", flush=True)
os._exit(0)
"""


def test_threads_that_read_ahead_have_ended_before_the_interpreter_does():
    """And exit status, traceback, the one line of a user error and the handlers of others are what they would be."""
    result = run_python("-c", ENDINGS, whole_end=True)
    statuses = {"good": 0, "status 3": 3, "error": 1, "user error": 2}
    expected = [
        line for case, status in statuses.items() for line in (f"{case}: at exit False", f"{case}: status {status}")
    ]
    assert result.stdout.splitlines() == expected, result.stderr
    assert "\nValueError: its own\n" in result.stderr and "terminate called" not in result.stderr
    assert "\nfairseq_kd: error: of the user\n" in "\n" + result.stderr
