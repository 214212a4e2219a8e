"""One run of stock fairseq-train in a process of its own: progress, log, resume, and a record when it is done."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from fairseq_kd.artifacts.manifest import create_json, ensure_writable_folder, exclusive, sha256_file, write_json
from fairseq_kd.artifacts.records import read_record, sealed
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.process import dying_with_this_process
from fairseq_kd.core.progress import Progress
from fairseq_kd.inference.checkpoint import DamagedCheckpoint, read_checkpoint, updates_of

RECORD = "train.json"  # there when the run is complete
REQUEST = "request.json"  # there from the start
LOG_LINES_SHOWN = 15
# glibc gives large tensors back to the kernel at every step, and clearing their pages again takes time on the CPU
# (docs/benchmarks.md); other C libraries ignore these variables
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**34)}


def train(folder, arguments: list[str], inputs: dict, max_update: int, label: str) -> dict:
    """Train until `max_update`, or continue a run that was killed, or do nothing if it is complete.

    folder: gets checkpoints/, train.log, request.json and, at the end, train.json.
    arguments: of fairseq-train, without --save-dir. inputs: what the run depends on (hashes), compared at resume.
    Returns the record: {"checkpoint", "command", "seconds", "updates", ...}.
    Raises KDError when `folder` belongs to another run, or fairseq-train fails.
    """
    folder = Path(folder)
    command = ["fairseq-train", *arguments, "--save-dir", str(folder / "checkpoints")]
    request = {"command": command, "inputs": inputs}
    ensure_writable_folder(folder)
    create_json(folder / REQUEST, sealed(request))
    _check_same_request(folder / REQUEST, request)  # of two that begin together one has recorded its own
    if (folder / RECORD).exists():
        return _check_record(folder / RECORD)
    with exclusive(folder / "training"):
        if (folder / RECORD).exists():  # of another process, which has finished since
            return _check_record(folder / RECORD)
        return _train(folder, command, request, max_update, label)


def _check_record(path: Path) -> dict:
    """The record of a complete run. Raises KDError when its checkpoint is gone or another."""
    remedy = f"remove {path.parent} to train it again, or put the file back"
    record = read_record(path, remedy, required=("checkpoint", "checkpoint_sha256", "seconds", "updates"))
    checkpoint = Path(record["checkpoint"])
    if not checkpoint.is_file() or sha256_file(checkpoint) != record["checkpoint_sha256"]:
        raise KDError(
            f"{path} says that {checkpoint} is complete, but that file is gone or was changed; remove {path.parent} to "
            "train it again"
        )
    return record


def _train(folder: Path, command: list[str], request: dict, max_update: int, label: str) -> dict:
    checkpoints = folder / "checkpoints"
    # killed between its last checkpoint and the record; fairseq-train would make one more update and save that
    if restore_last_checkpoint(checkpoints) < max_update:
        _run(command, folder / "train.log", max_update, label)
    state = read_checkpoint(checkpoints / "checkpoint_last.pt")
    best = checkpoints / "checkpoint_best.pt"
    record = {
        "checkpoint": str(best),
        "checkpoint_sha256": sha256_file(best),
        "command": shlex.join(command),
        "seconds": round(state["extra_state"]["previous_training_time"], 1),
        "updates": updates_of(state),
        "inputs": request["inputs"],
    }
    write_json(folder / RECORD, sealed(record))
    return record


def _check_same_request(path: Path, request: dict) -> None:
    remedy = f"it says which options {path.parent} was trained with; put the file back, or remove the folder"
    if read_record(path, remedy, required=("command", "inputs")) != request:
        raise KDError(
            f"{path.parent} holds a run with other options or data (see {path}); choose another --out or remove it"
        )


def restore_last_checkpoint(checkpoints: Path) -> int:
    """Make sure that checkpoint_last.pt, if there is one, can be read; return its number of updates, or 0.

    fairseq copies it in place, so a process killed during the copy leaves half a file. It is then replaced by the
    newest whole checkpoint, or removed if there is none, and the log says so. It is the last that fairseq writes: when
    it is whole, so are the others of its update.
    """
    last = checkpoints / "checkpoint_last.pt"
    if not last.is_file():
        return 0
    if (state := _read(last)) is not None:
        return updates_of(state)
    last.unlink()
    others = sorted(checkpoints.glob("checkpoint*.pt"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in others:
        if (state := _read(path)) is not None:
            shutil.copyfile(path, last.with_suffix(".part"))
            os.replace(last.with_suffix(".part"), last)
            print(f"{last} was cut off when the run was killed; continuing from {path.name}", file=sys.stderr)
            return updates_of(state)
    print(f"{last} was cut off when the run was killed; continuing from the beginning", file=sys.stderr)
    return 0


def _read(path: Path) -> dict | None:
    """The checkpoint, or None if it is cut off. Raises KDError for one that is refused: it is whole, and is kept."""
    try:
        return read_checkpoint(path)
    except DamagedCheckpoint:
        return None


def _run(command: list[str], log: Path, max_update: int, label: str) -> None:
    """Run fairseq-train with its output in `log` and the progress on standard error."""
    arguments = [sys.executable, "-m", "fairseq_cli.train", *command[1:]]
    environment = os.environ | {name: os.environ.get(name, value) for name, value in KEEP_MEMORY.items()}
    progress = None
    with (
        open(log, "a", encoding="utf-8") as file,
        subprocess.Popen(
            arguments,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment,
            preexec_fn=dying_with_this_process(),
        ) as process,
    ):
        for line in process.stdout:
            file.write(line)
            if (found := re.search(r'"num_updates": "(\d+)".*', line)) and "| train_inner |" in line:
                updates = int(found.group(1))
                progress = progress or Progress(label, max_update, "updates", done=updates)
                loss = re.search(r'"loss": "([\d.]+)"', line)
                progress.reach(updates, f"loss {loss.group(1)}" if loss else "")
                file.flush()
    if progress is not None:
        progress.finish()
    if process.returncode != 0:
        tail = "".join(log.read_text(encoding="utf-8").splitlines(keepends=True)[-LOG_LINES_SHOWN:])
        raise KDError(f"fairseq-train ended with status {process.returncode}; the end of {log}:\n{tail}")
