"""The process from which `fairseq_kd.core.preloaded` forks: it loads torch and fairseq, and never runs them.

It forks one child per connection. The child does what `python -m MODULE` does, with the working directory, environment,
standard streams and arguments of the process that asks; it loads the modules of this package itself, unless the server
was told to load this package. The child is killed when the connection is closed, and when the server ends. A request is
refused when its environment differs from the server's, because libraries read the environment when they are loaded.
"""

import contextlib
import functools
import gc
import json
import logging
import os
import runpy
import selectors
import signal
import socket
import sys
import tempfile
import warnings
from importlib import import_module
from importlib.util import find_spec

from fairseq_kd.core.preloaded import MESSAGE_BYTES, SERVER, check_peer
from fairseq_kd.core.process import die_with_parent, run_and_leave

# set by shells and Snakemake; no library reads them while it is loaded
FREE = {"PWD", "OLDPWD", "SHLVL", "_", "TMPDIR", "TMP", "TEMP", "TEMPDIR", "CUDA_VISIBLE_DEVICES", SERVER}
FREE |= {"FAIRSEQ_KD_KEEP_MEMORY"}
PACKAGE = "fairseq_kd"


def load(modules: list[str]) -> None:
    """Load the libraries and `modules`, and undo what the commands of fairseq do to logging when they are imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import fairseq_cli.preprocess
        import fairseq_cli.train  # noqa: F401
        import sacrebleu  # noqa: F401
        import sentencepiece  # noqa: F401
        import torch._dynamo  # noqa: F401 torch's optimizers load it

        if PACKAGE in modules:
            _forget(PACKAGE)  # its import after that of fairseq registers it
        for name in modules:
            import_module(name)
    _forget("fairseq_cli")
    logging.root.handlers.clear()
    gc.collect()
    gc.freeze()


def _forget(package: str) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]


class Server:
    """Forks for each request until it is killed."""

    def __init__(self, listening: socket.socket, environment: dict):
        self._free = FREE | (os.environ.keys() - environment.keys())  # the libraries have set the latter
        self._environment = self._fixed(environment)
        self._selector = selectors.DefaultSelector()
        self._selector.register(listening, selectors.EVENT_READ, self._accept)
        self._running = {}  # connection -> process id of its child

    def _fixed(self, environment: dict) -> dict:
        return {name: value for name, value in environment.items() if name not in self._free}

    def serve(self) -> dict:
        """The request, in the child that runs it. The server never returns."""
        while True:
            for key, _ in self._selector.select():
                is_open = self._selector.get_map().get(key.fd) is key  # another event may have closed it
                if is_open and (request := key.data(key.fileobj)) is not None:
                    return request

    def _accept(self, listening: socket.socket) -> None:
        connection, _ = listening.accept()
        try:
            check_peer(connection)
        except OSError:
            connection.close()
            return
        self._selector.register(connection, selectors.EVENT_READ, self._hear)

    def _hear(self, connection: socket.socket) -> dict | None:
        """A request, a signal for the child, or the end of the process that has asked."""
        message, descriptors = b"", []
        with contextlib.suppress(ConnectionError):
            message, descriptors, *_ = socket.recv_fds(connection, MESSAGE_BYTES, 3)
        pid = self._running.get(connection)
        if message and pid is None:
            return self._start(connection, json.loads(message), descriptors)
        if pid is not None:
            os.kill(pid, int(message or signal.SIGKILL))  # `_end` waits for it later, so the id is still its own
        if not message:
            self._selector.unregister(connection)
            connection.close()
        return None

    def _start(self, connection: socket.socket, request: dict, descriptors: list[int]) -> dict | None:
        names = {name for name, _ in self._fixed(request["environment"]).items() ^ self._environment.items()}
        answer, server = "started", os.getpid()
        try:
            pid = os.fork() if not names else None
        except OSError as error:
            pid, answer = None, str(error)
        if pid == 0:
            die_with_parent(server)
            self._leave(descriptors)
            return request
        for descriptor in descriptors:
            os.close(descriptor)
        if pid is not None:
            self._running[connection] = pid
            end = functools.partial(self._end, connection)
            self._selector.register(os.pidfd_open(pid), selectors.EVENT_READ, end)
        elif names:
            answer = f"the environment of the study or quickstart has another value of {', '.join(sorted(names))}"
        with contextlib.suppress(OSError):  # the process that has asked has ended: `_hear` is called next
            connection.send(answer.encode())
        return None

    def _leave(self, descriptors: list[int]) -> None:
        """In the child: take its standard streams, and close what belongs to the server."""
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
        for descriptor in [*descriptors, *self._selector.get_map()]:
            os.close(descriptor)
        self._selector.close()

    def _end(self, connection: socket.socket, ended: int) -> None:
        self._selector.unregister(ended)
        os.close(ended)
        _, status = os.waitpid(self._running.pop(connection), 0)
        if connection.fileno() >= 0:  # else the process that has asked has ended
            with contextlib.suppress(OSError):
                connection.send(b"%d" % status)
            self._selector.unregister(connection)
            connection.close()


def become(request: dict, registered: bool) -> None:
    """Be `python -m MODULE ARGUMENTS...`. registered: whether this package is loaded, and stays so."""
    import numpy
    import torch

    os.chdir(request["cwd"])
    for name in FREE:
        os.environ.pop(name, None)
    os.environ.update(request["environment"])  # what the libraries have set while they were loaded stays
    tempfile.tempdir = None
    numpy.random.seed()  # each new interpreter begins with another state
    torch.default_generator.seed()
    if request["threads"] is not None:
        torch.set_num_threads(request["threads"])
    name, *arguments = request["words"]
    sys.orig_argv, sys.argv = [sys.executable, "-m", *request["words"]], ["-m", *arguments]
    if not sys.flags.safe_path:
        sys.path[0] = request["cwd"]
    if not registered:
        _load_again(name)
    run_and_leave(lambda: runpy.run_module(name, run_name="__main__", alter_sys=True))


def _load_again(name: str) -> None:
    """Load this package as a new interpreter does that runs the module `name`."""
    _forget(PACKAGE)
    if name.startswith(f"{PACKAGE}."):  # it asks whether fairseq is loaded, and a new interpreter has not loaded it yet
        fairseq = sys.modules.pop("fairseq")
        find_spec(name)  # imports the package
        sys.modules["fairseq"] = fairseq


if __name__ == "__main__":
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asks passes interrupts on
    given = dict(os.environ)
    _, listening, *modules = sys.argv
    load(modules)
    asked = Server(socket.socket(fileno=int(listening)), given).serve()
    signal.signal(signal.SIGINT, interrupt)
    become(asked, registered=PACKAGE in modules)
