"""Runs a shell script. Its Python commands are forks of one process (`process_helpers`), so they start in 0.1 s."""

import os
import select
import subprocess
import sys
from pathlib import Path

from process_helpers import Process

STUB = """#!/bin/sh
here=$(dirname "$0")
mkfifo "$here/$$"
{ basename "$0"; pwd; for word; do printf '%s\\n' "$word"; done; } > "$here/$$.asked"
echo $$ > "$here/asked"
read -r status < "$here/$$"
cat "$here/$$.err" >&2
cat "$here/$$.out"
exit "$status"
"""


class Forks:
    """A folder with commands that a script finds, and `run`. calls: the words of each command, its name first."""

    def __init__(self, folder: Path, names: tuple[str, ...]):
        self.folder, self.calls = folder, []
        folder.mkdir()
        for name in names:
            (folder / name).write_text(STUB)
            (folder / name).chmod(0o755)
        os.mkfifo(folder / "asked")

    def run(self, words: list, cwd: Path, watch=lambda words, process: None) -> subprocess.CompletedProcess:
        """Run the script. watch: called with the words of each command and its process, which it may kill."""
        environment = {"PATH": os.pathsep.join([str(self.folder), "/usr/bin", "/bin"])}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        asked = os.open(self.folder / "asked", os.O_RDWR)  # for writing too: so it has no end
        try:
            script = subprocess.Popen([*map(str, words)], cwd=cwd, env=environment, text=True, **pipes)
            while script.poll() is None:
                if select.select([asked], [], [], 0.02)[0]:
                    self._answer(os.read(asked, 100).decode().strip(), watch)
            return subprocess.CompletedProcess(words, script.returncode, *script.communicate())
        finally:
            os.close(asked)

    def _answer(self, number: str, watch) -> None:
        name, cwd, *words = (self.folder / f"{number}.asked").read_text().splitlines()
        self.calls.append([name, *words])
        process = Process(Path(sys.executable).with_name(name), *words, cwd=cwd)
        watch(self.calls[-1], process)
        out, err = process.communicate(120)
        (self.folder / f"{number}.out").write_text(out)
        (self.folder / f"{number}.err").write_text(err)
        status = process.returncode if process.returncode >= 0 else 128 - process.returncode
        (self.folder / number).write_text(f"{status}\n")
