"""Flower's deployment engine on the loopback interface: a SuperLink, a SuperNode per part, and one run.

All of them are processes of this command: they are watched, and they end with it.
"""

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from fairseq_kd.core.cores import usable_cores
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.preloaded import SERVER, start_python
from fairseq_kd.federated import guard
from fairseq_kd.federated.app_folder import write_app
from fairseq_kd.federated.plan import drawn_clients
from fairseq_kd.federated.programs import MODULE, write_programs

HOST = "127.0.0.1"
SECONDS_TO_START = 60
SETTINGS = {  # no telemetry, no look for updates; how often a process looks for a task
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.25",
    "GRPC_VERBOSITY": "error",  # this one and the next are what Flower sets itself: forks need one environment
    "BROWSER_USE_SETUP_LOGGING": "false",
    "NO_COLOR": "1",
}
LOG_LINES = 5
PROGRAMS = "bin"  # in OUT/engine
SUBMISSION = "submission"  # the log of flwr run


def free_ports(count: int) -> list[int]:
    """Different ports of the loopback interface that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]


class Engine:
    """The running processes. names -> process: "superlink", "client1", ..."""

    def __init__(self, folder: Path, environment: dict):
        self.folder, self._environment, self._processes = folder, environment, {}

    def start(self, name: str, program: str, *words: str) -> None:
        """Start a program of Flower, which writes to NAME.log."""
        with open(self.folder / f"{name}.log", "ab") as log:
            command = [MODULE, program, *words]
            self._processes[name] = start_python(command, log.fileno(), environment=self._environment)

    def ended(self) -> list[str]:
        """The names of the processes that have ended."""
        return [name for name, process in self._processes.items() if process.poll() is not None]

    def wait_for(self, port: int) -> None:
        """Wait until the SuperLink listens. Raises KDError when it ends, or takes too long."""
        end = time.monotonic() + SECONDS_TO_START
        while time.monotonic() < end and "superlink" not in self.ended():
            with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
                return
            time.sleep(0.1)
        raise KDError(f"Flower's SuperLink has not started on {HOST}:{port}: {self.end_of_log('superlink')}")

    def submit(self, app: Path) -> None:
        """Start the run. Raises KDError when Flower refuses it."""
        self.start(SUBMISSION, "flwr", "run", str(app), "here")
        process = self._processes.pop(SUBMISSION)
        try:
            status = process.wait(SECONDS_TO_START)
        except (TimeoutError, subprocess.TimeoutExpired) as error:
            raise KDError(f"flwr run {app} has not ended within {SECONDS_TO_START} seconds") from error
        if status != 0:
            raise KDError(f"flwr run {app} ended with status {status}: {self.end_of_log(SUBMISSION)}")

    def end_of_log(self, name: str) -> str:
        """The last lines of NAME.log as one line, for a message."""
        lines = (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace").splitlines()
        return f"the end of {self.folder / f'{name}.log'}: {json.dumps(' '.join(lines[-LOG_LINES:]))}"

    def reap(self) -> None:
        """Wait for the processes that `guard.end_all` has ended."""
        for process in self._processes.values():
            process.kill()
            process.wait()


def environment_of(folder: Path) -> dict:
    """The environment of all processes of one engine. folder: for logs and the state of Flower.

    It names no server of loaded processes: that of a study has another environment, and would refuse each process.
    """
    programs = f"{folder / PROGRAMS}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    own = {"PATH": programs, "FLWR_HOME": str(folder / "home"), guard.MARK: secrets.token_hex(16)}
    return {name: value for name, value in os.environ.items() if name != SERVER} | SETTINGS | own


def threads_per_client(plan: dict) -> int:
    """The share of the cores for the training of each client of a round: they run at the same time."""
    return max(1, usable_cores() // drawn_clients(plan["clients"], plan["spec"]["fraction"]))


@contextlib.contextmanager
def running_engine(folder: Path, plan_file: Path, plan: dict, environment: dict) -> Iterator[Engine]:
    """The engine, with a SuperNode for each part of the plan, and the run of the plan started.

    folder: for logs and the state of Flower; what an earlier engine left there is removed. environment: of
    `environment_of`. At the end of the block no process of the engine is left.
    """
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "lost").mkdir(parents=True)
    write_programs(folder / PROGRAMS)
    word = environment[guard.MARK]
    port, *others = free_ports(1 + plan["clients"])
    engine = Engine(folder, environment)
    waiting = subprocess.Popen(
        [sys.executable, guard.__file__, word], stdin=subprocess.PIPE, start_new_session=True, env=os.environ.copy()
    )
    try:
        app = write_app(folder, plan_file, f"{HOST}:{port}")
        where = ("--insecure", "--host", HOST, "--port")
        engine.start("superlink", "flower-superlink", *where, str(port), "--disable-runtime-dependency-installation")
        for number, (part, own) in enumerate(zip(plan["parts"], others, strict=True), start=1):
            node = {"part": number, "data": part, "folder": f"{plan['out']}/clients/{number}", "cpu": plan["cpu"]}
            node |= {"threads": threads_per_client(plan), "local": True}
            words = " ".join(f"{name}={json.dumps(value)}" for name, value in node.items())
            words = ("--superlink", f"{HOST}:{port}", "--node-config", words)
            engine.start(f"client{number}", "flower-supernode", *where, str(own), *words)
        engine.wait_for(port)
        engine.submit(app)
        yield engine
    finally:
        ended = guard.end_all(word)
        engine.reap()
        waiting.stdin.close()
        waiting.wait()
        shutil.rmtree(folder / "home", ignore_errors=True)
    if not ended:
        raise KDError(f"processes of Flower could not be ended: {', '.join(map(str, guard.marked(word)))}")
