"""Run commands in children of one process that has loaded the libraries, and disturb them at a chosen moment.

A request is a line of JSON on standard input, the answer a line on standard output. See `run` in faults_helpers.py.

    argv        of `fairseq-kd`
    folder      events are counted for paths below it
    log         file that gets the output of the command
    environment variables to set
    kill_at     number of the event before which the process kills itself (SIGKILL)
    kill_after  seconds after which the server kills it
    swap        {"file": ..., "by": ..., "at": number}: replace a file before this event, or, without "at", before the
                first event after the file was read
    read        a file: the answer tells at which event it was read first

An event is what Python's audit hooks report for a file: open, rename, link, remove, mkdir, rmdir. So a moment does not
depend on how fast the machine is, and needs no change of the code that is tested.
"""

import contextlib
import json
import os
import signal
import sys
import traceback

COUNTED = ("open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir")
BLOCK_TOKENS, BLOCK_SENTENCES = 300, 10


def use_small_blocks() -> None:
    """Of unfinished caches and decoded data-bins, so that a few sentences make several parts."""
    from fairseq_kd.cache import writer
    from fairseq_kd.sequence import decode

    writer.LARGEST_BLOCK = BLOCK_TOKENS
    decode.decode.__kwdefaults__["block_sentences"] = BLOCK_SENTENCES


class Disturbance:
    """Counts the events of a command and does at one of them what the request says."""

    def __init__(self, case: dict):
        self.case, self.count, self.read_at, self.swapped = case, 0, None, False
        self.watched = case.get("read") or case.get("swap", {}).get("file")
        self.busy = False

    def __call__(self, event: str, args) -> None:
        if self.busy or event not in COUNTED or not isinstance(args[0], str | bytes | os.PathLike):
            return
        path = os.path.abspath(os.fsdecode(args[0]))
        if not path.startswith(self.case["folder"] + os.sep):
            return
        self.count += 1
        if self.count == self.case.get("kill_at"):
            os.kill(os.getpid(), signal.SIGKILL)
        swap = self.case.get("swap")
        if swap and not self.swapped and self._is_moment(swap):
            self.busy, self.swapped = True, True
            os.replace(swap["by"], swap["file"])
            self.busy = False
        if path == self.watched and self.read_at is None:
            self.read_at = self.count

    def _is_moment(self, swap: dict) -> bool:
        return self.count == swap["at"] if "at" in swap else self.read_at is not None


def run_child(case: dict, answers: int) -> None:
    """The command, in a child; never returns."""
    log = os.open(case["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(log, 1), os.dup2(log, 2)
    os.environ.update(case.get("environment", {}))
    disturbance = Disturbance(case)
    sys.addaudithook(disturbance)
    status = 1
    try:
        from fairseq_kd.cli.main import main

        status = main(case["argv"])
    except SystemExit as stopped:
        status = stopped.code
    except BaseException:
        traceback.print_exc()
    disturbance.busy = True
    sys.stdout.flush(), sys.stderr.flush()
    os.write(answers, json.dumps({"events": disturbance.count, "read_at": disturbance.read_at}).encode())
    os._exit(status)


def _kill(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
        os.kill(process, signal.SIGKILL)


def serve() -> None:
    """Answer requests until standard input ends."""
    import torch

    import fairseq_kd
    from fairseq_kd.cli import cache, decode, main, mix, noise, partition, prepare, select_teacher, split  # noqa: F401
    from fairseq_kd.evaluation import select_teacher as selecting  # noqa: F401
    from fairseq_kd.noise import data_bin  # noqa: F401

    fairseq_kd.register()
    use_small_blocks()
    torch.set_num_threads(1)
    for line in sys.stdin:
        case = json.loads(line)
        answers, child_answers = os.pipe()
        process = os.fork()
        if process == 0:
            run_child(case, child_answers)
        os.close(child_answers)
        if "kill_after" in case:
            signal.signal(signal.SIGALRM, lambda *_: _kill(process))  # noqa: B023
            signal.setitimer(signal.ITIMER_REAL, case["kill_after"])
        _, status = os.waitpid(process, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        with os.fdopen(answers, "rb") as file:
            found = json.loads(file.read() or b"{}")
        print(json.dumps(found | {"status": os.waitstatus_to_exitcode(status)}), flush=True)


if __name__ == "__main__":
    serve()
