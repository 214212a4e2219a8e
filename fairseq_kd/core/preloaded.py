"""`python -m MODULE ...` as a fork of one process that has loaded torch and fairseq: a start takes 0.1 s, not 5 to 7 s.

`preloaded_python` starts that process, the server (`fairseq_kd.core.fork_server`). Its address is in an environment
variable, so that the stages of a study find it too. `start_python` and `run_python` ask it for a process, and start an
interpreter where there is no server. The server is used for runs on the CPU of this machine only: a process that has
forked cannot share a CUDA device with its child.
"""

import contextlib
import json
import os
import secrets
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator

from fairseq_kd.core.process import dying_with_this_process

SERVER = "FAIRSEQ_KD_PRELOADED"  # the environment variable: the address of the server in hexadecimal digits
MESSAGE_BYTES = 2**17
SECONDS_TO_END = 0.25  # after an interrupt, as in the module subprocess


@contextlib.contextmanager
def preloaded_python(
    environment: dict | None = None, *, separate: bool = False, modules: tuple[str, ...] = ()
) -> Iterator[dict]:
    """During the block a server runs; yields the environment in which processes find it.

    environment: that of the processes to start (default: the environment of this process, which gets the address of the
    server during the block). separate: the server gets a session of its own, and signals from a terminal do not reach
    its processes. modules: what the server loads besides torch and fairseq; with "fairseq_kd" it also registers this
    package with fairseq, and its processes begin with the modules of this package that it has loaded.
    A server that is there already is used, and a system without the means starts none.
    """
    given = os.environ if environment is None else environment
    if SERVER in given or not _can_serve():
        yield given
        return
    address = secrets.token_hex(16)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(f"\0{address}")
        listening.listen()
        words = [sys.executable, "-m", "fairseq_kd.core.fork_server", str(listening.fileno()), *modules]
        server = subprocess.Popen(
            words, env=dict(given), pass_fds=[listening.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            preexec_fn=dying_with_this_process(interruptible=True), start_new_session=separate,
        )  # fmt: skip
    try:
        if environment is None:
            os.environ[SERVER] = address
        yield {**given, SERVER: address}
    finally:
        if environment is None:
            del os.environ[SERVER]
        server.kill()  # its processes end with it
        server.wait()


def _can_serve() -> bool:
    """Whether this system has sockets without files and descriptors of processes (Linux 5.3 has both)."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        print("this system cannot fork loaded processes: each one loads torch and fairseq", file=sys.stderr, flush=True)
        return False
    return True


class ForkedPython:
    """A process that the server has forked, with the methods of `subprocess.Popen` that are used."""

    def __init__(self, connection: socket.socket):
        self.returncode, self._connection = None, connection

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, negative for a signal. Raises TimeoutError."""
        if self.returncode is None:
            self._connection.settimeout(timeout)
            status = b""  # the server was killed, and its processes with it
            with contextlib.suppress(ConnectionError):
                status = self._connection.recv(MESSAGE_BYTES)
            self.returncode = os.waitstatus_to_exitcode(int(status)) if status else -signal.SIGKILL
            self._connection.close()
        return self.returncode

    def poll(self) -> int | None:
        """The exit status, or None while the process runs."""
        try:
            return self.wait(0)
        except BlockingIOError:
            return None

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.returncode is None:
            with contextlib.suppress(OSError):
                self._connection.send(b"%d" % number)

    def kill(self) -> None:
        """End the process at once."""
        self.send_signal(signal.SIGKILL)


def has_server() -> bool:
    """Whether `start_python` asks a server."""
    return SERVER in os.environ


def start_python(
    words: list[str], output=None, *, threads: int | None = None, environment: dict | None = None
) -> ForkedPython | subprocess.Popen:
    """Start `python -m WORDS...`, which the system ends when this process ends.

    output: descriptor for its standard output and error; None: those of this process. threads: of torch in the process;
    None: as many as torch takes by itself. environment: of the process, which then gets no signals from a terminal
    (default: the environment of this process).
    """
    given = dict(os.environ) if environment is None else environment
    if SERVER in given:
        try:
            return ForkedPython(_ask(words, output, threads, given))
        except OSError as error:
            print(f"{words[0]} loads torch and fairseq itself: {error}", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", *words]
    given = given | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
    separate = environment is not None
    how = {"env": given, "start_new_session": separate, "preexec_fn": dying_with_this_process(interruptible=separate)}
    return subprocess.Popen(command, stdout=output, stderr=output, **how)


def _ask(words: list[str], output, threads: int | None, environment: dict) -> socket.socket:
    """The connection to the server, which has started the process. Raises OSError if it has not."""
    request = {"words": words, "cwd": os.getcwd(), "environment": environment, "threads": threads}
    descriptors = [0, 1, 2] if output is None else [0, output, output]
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.connect(f"\0{environment[SERVER]}")
        check_peer(connection)
        socket.send_fds(connection, [json.dumps(request).encode()], descriptors)
        answer = connection.recv(MESSAGE_BYTES).decode()
        if answer != "started":
            raise OSError(answer or "the server of loaded processes has ended")
    except BaseException:
        connection.close()
        raise
    return connection


def check_peer(connection: socket.socket) -> None:
    """Raises OSError when another user is at the other end."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    if struct.unpack("3i", found)[1] != os.getuid():
        raise OSError("the server of loaded processes belongs to another user")


def run_python(words: list[str]) -> int:
    """Run `python -m WORDS...` to its end; return the exit status. An interrupt reaches it too."""
    process = start_python(words)
    try:
        return process.wait()
    except BaseException:
        with contextlib.suppress(TimeoutError, subprocess.TimeoutExpired):
            if isinstance(process, ForkedPython):  # it is not in the process group of this process
                process.send_signal(signal.SIGINT)
            process.wait(SECONDS_TO_END)
        process.kill()
        process.wait()
        raise


if __name__ == "__main__":  # python -m fairseq_kd.core.preloaded MODULE ARGUMENTS...: the module as a fork
    sys.exit(run_python(sys.argv[1:]))
