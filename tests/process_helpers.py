"""`python WORDS...` in a fork of one process that has loaded torch and fairseq: a start takes 0.1 s, not 5 s.

The first start in a test process starts a server, which imports the libraries and never the plugin. For each command
the server forks a child, which does what the interpreter does with `-m MODULE`, `-c CODE` or the path of a script:
`__main__`, sys.argv, sys.path, working directory and environment are as for the command, and exit functions run.
Four differences remain: the environment does not reach what a library reads when it is imported; the
registries of fairseq are filled before the command begins; Hydra has parsed the options of a training already; and the
interpreter does not release its objects at the end, which takes 0.6 s in a fork (`whole_end` lets it). A test whose
subject is the start of an interpreter uses `subprocess`.

Messages to the server: one JSON object and three file descriptors (standard output, standard error, a pipe for the
reply). The reply: the process id of the command, then its wait status, one per line.
"""

import array
import atexit
import contextlib
import functools
import gc
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import types
from pathlib import Path

LIBRARIES = ("fairseq_cli.train", "fairseq_cli.generate", "fairseq_cli.validate", "fairseq_cli.preprocess")
LIBRARIES += ("fairseq_cli.hydra_train", "sentencepiece", "sacrebleu", "torch._dynamo")  # the last by an optimizer
MESSAGE_BYTES = 2**17


class Process:
    """A running `python WORDS...`, with the methods of `subprocess.Popen` for text that tests use.

    output: a descriptor for its standard output and error, in place of `communicate`. whole_end: the interpreter ends
    as usual.
    """

    def __init__(self, *words, cwd=None, env=None, output=None, whole_end=False):
        self.args, self.returncode = [*map(str, words)], None
        self._files = [tempfile.TemporaryFile(), tempfile.TemporaryFile()]  # noqa: SIM115
        streams = [file.fileno() for file in self._files] if output is None else [output, output]
        reply, other_end = os.pipe()
        request = {"words": self.args, "cwd": str(cwd or Path.cwd()), "env": dict(os.environ if env is None else env)}
        request["whole_end"] = whole_end
        message = json.dumps(request).encode()
        assert len(message) <= MESSAGE_BYTES, "the environment is too large"
        try:
            socket.send_fds(_server(), [message], [*streams, other_end])
        finally:
            os.close(other_end)
        self._reply = os.fdopen(reply, "rb", buffering=0)
        self.pid = int(self._reply.readline())

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while the process runs."""
        if self.returncode is None and select.select([self._reply], [], [], 0)[0]:
            self.returncode = os.waitstatus_to_exitcode(int(self._reply.readline()))
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit status. Raises subprocess.TimeoutExpired."""
        if self.returncode is None and not select.select([self._reply], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.poll()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait, and return standard output and standard error."""
        self.wait(timeout)
        for file in self._files:
            file.seek(0)
        return tuple(file.read().decode() for file in self._files)


def run_python(*words, cwd=None, env=None, timeout: float = 300, whole_end=False) -> subprocess.CompletedProcess:
    """Run `python WORDS...` to its end, as `subprocess.run` does with captured text."""
    process = Process(*words, cwd=cwd, env=env, whole_end=whole_end)
    try:
        out, err = process.communicate(timeout)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def run_kd(*words, **options) -> subprocess.CompletedProcess:
    """Run `python -m fairseq_kd.cli.main WORDS...`."""
    return run_python("-m", "fairseq_kd.cli.main", *words, **options)


def run_script(name: str, *words, **options) -> subprocess.CompletedProcess:
    """Run a script that an installed package brings, `fairseq-kd` or `fairseq-train` for instance."""
    return run_python(Path(sys.executable).with_name(name), *words, **options)


@functools.cache
def _server() -> socket.socket:
    """The socket of this process's server. The server ends when the socket is closed, also by a kill."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    compiled = tempfile.mkdtemp()
    words = [sys.executable, __file__, str(theirs.fileno()), compiled]
    with theirs:
        server = subprocess.Popen(words, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
    atexit.register(lambda: (ours.close(), server.wait(), shutil.rmtree(compiled)))
    return ours


def _serve(requests: socket.socket) -> dict | None:
    """Fork for each request; return the request in the fork, and None in the server when the client has ended."""
    while True:
        message, found, *_ = socket.recv_fds(requests, MESSAGE_BYTES, 3)
        if not message:
            return None
        if os.fork() == 0:
            requests.close()
            out, err, reply = array.array("i", found)
            if (pid := os.fork()) == 0:
                os.close(reply)
                os.dup2(out, 1)
                os.dup2(err, 2)
                os.close(out)
                os.close(err)
                return json.loads(message)
            os.write(reply, b"%d\n" % pid)
            _, status = os.waitpid(pid, 0)
            os.write(reply, b"%d\n" % status)
            os._exit(0)
        for descriptor in found:
            os.close(descriptor)
        with contextlib.suppress(ChildProcessError):
            while os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG) is not None:
                pass


def _preload(compiled: str) -> None:
    """Import the libraries, and undo what the commands of fairseq do when they are imported.

    compiled: folder for the compiled code of the plugin, where the environment forbids to keep it beside its source.
    """
    import importlib
    import logging
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in LIBRARIES:
            importlib.import_module(name)
        importlib.import_module("hydra_helpers").keep()
    for name in [name for name in sys.modules if name.partition(".")[0] == "fairseq_cli"]:
        del sys.modules[name]
    logging.root.handlers.clear()
    assert not any(name.partition(".")[0] == "fairseq_kd" for name in sys.modules)
    if sys.dont_write_bytecode:  # each fork would compile the plugin again
        sys.pycache_prefix, sys.dont_write_bytecode = compiled, False
    gc.collect()
    gc.freeze()


def _end(run) -> None:
    """As `fairseq_kd.core.process.run_and_leave`; this file imports the plugin for no command that does not."""
    status = 0
    try:
        run()
    except SystemExit as error:
        if not isinstance(error.code, int | None):
            raise
        status = error.code or 0
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status & 0xFF)


def _become(request: dict) -> None:
    """Do in this process what `python WORDS...` does."""
    import runpy

    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    words = request["words"]
    sys.orig_argv = [sys.executable, *words]
    kind = words[0] if words[0] in ("-m", "-c") else "script"
    beside = {"-m": request["cwd"], "-c": ""}.get(kind, str(Path(words[0]).parent))
    added = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:1] = [beside, *map(os.path.abspath, added)]
    name = words[1] if kind == "-m" else Path(words[0]).name
    sys.argv = [words[0], *words[2:]] if kind in ("-m", "-c") else words
    if name == "fairseq-kd" or name.startswith("fairseq_kd."):  # the package asks whether fairseq is loaded already
        fairseq = sys.modules.pop("fairseq")
        import fairseq_kd  # noqa: F401

        sys.modules["fairseq"] = fairseq
    if kind == "-m":
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    elif kind == "-c":
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(words[1], "<string>", "exec"), vars(main))
    else:
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    listening = socket.socket(fileno=int(sys.argv[1]))
    _preload(sys.argv[2])
    if (asked := _serve(listening)) is not None:
        del sys.modules["__main__"].__file__
        if asked["whole_end"]:
            _become(asked)
        else:
            _end(lambda: _become(asked))
