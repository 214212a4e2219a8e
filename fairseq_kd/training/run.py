"""One run of stock fairseq-train in a process of its own, with progress, a log, and a record when it is complete.

The same call continues a killed run.
"""

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

from fairseq_kd.artifacts.folders import remove_leftovers
from fairseq_kd.artifacts.hashes import sha256_file
from fairseq_kd.artifacts.locks import exclusive
from fairseq_kd.artifacts.records import create_record, read_record, write_record
from fairseq_kd.artifacts.request import check_same
from fairseq_kd.artifacts.writing import ensure_writable_folder, file_in_progress
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.preloaded import start_python
from fairseq_kd.core.progress import Progress
from fairseq_kd.inference.checkpoint import DamagedCheckpoint, read_checkpoint, updates_of

RECORD = "train.json"  # exists once the run is complete
REQUEST = "request.json"  # exists from the start
RESTORE = "--restore-file"
LOG_LINES_SHOWN = 15


def train(folder, arguments: list[str], inputs: dict, max_update: int, label: str) -> dict:
    """Train until `max_update`. A killed run is continued; a complete run is not repeated.

    folder: gets checkpoints/, train.log, request.json and, at the end, train.json.
    arguments: the arguments of fairseq-train, without --save-dir. inputs: hashes of the files that the run depends on;
    a continued run must have the same. label: the name of the run in the progress.
    Returns the record: {"checkpoint", "command", "seconds", "updates", ...}.
    Raises KDError when `folder` belongs to another run, or fairseq-train fails.
    """
    folder = Path(folder)
    command = ["fairseq-train", *arguments, "--save-dir", str(folder / "checkpoints")]
    request = {"command": command, "inputs": inputs}
    ensure_writable_folder(folder)
    create_record(folder / REQUEST, request)
    _check_same_request(folder / REQUEST, request)  # another process may have written its own meanwhile
    if (folder / RECORD).exists():
        remove_leftovers(folder / "training")
        return _check_record(folder / RECORD)
    with exclusive(folder / "training"):
        if (folder / RECORD).exists():  # another process has written it and finished since
            return _check_record(folder / RECORD)
        return _train(folder, command, request, max_update, label)


def _check_record(path: Path) -> dict:
    """The record of a complete run. Raises KDError when its checkpoint was removed or changed."""
    remedy = f"remove {path.parent} to train it again, or put the file back"
    record = read_record(path, remedy, required=("checkpoint", "checkpoint_sha256", "seconds", "updates"))
    checkpoint = Path(record["checkpoint"])
    if not checkpoint.is_file() or sha256_file(checkpoint) != record["checkpoint_sha256"]:
        raise KDError(
            f"{path} says that {checkpoint} is complete, but that file was removed or changed; remove {path.parent} to "
            "train it again"
        )
    return record


def _train(folder: Path, command: list[str], request: dict, max_update: int, label: str) -> dict:
    checkpoints = folder / "checkpoints"
    # A run that was killed between its last checkpoint and the record needs no fairseq-train: it would make and save
    # one more update.
    done = restore_last_checkpoint(checkpoints)
    if done < max_update:
        _run(_continued(command) if done else command, folder / "train.log", max_update, label)
    state = read_checkpoint(checkpoints / "checkpoint_last.pt")
    best = checkpoints / "checkpoint_best.pt"
    record = {
        "checkpoint": str(best),
        "checkpoint_sha256": sha256_file(best),
        "command": shlex.join(command),
        "seconds": round(_seconds(state) - _seconds_before(command), 1),
        "updates": updates_of(state),
        "inputs": request["inputs"],
    }
    write_record(folder / RECORD, record)
    return record


def _continued(command: list[str]) -> list[str]:
    """The command that continues a run from its own checkpoint_last.pt, without what concerns its beginning alone.

    A run that begins with the checkpoint of another one (--restore-file) would otherwise begin with it again.
    """
    words = [word for word in command if not word.startswith("--reset-")]
    if RESTORE in words:
        at = words.index(RESTORE)
        del words[at : at + 2]
    return words


def _seconds(state: dict) -> float:
    """The time that a training has taken, including the time of the training whose checkpoint it began with."""
    return state["extra_state"].get("previous_training_time", 0.0)


def _seconds_before(command: list[str]) -> float:
    """The time of the training whose checkpoint the run begins with; 0 for a run that begins with none."""
    path = command[command.index(RESTORE) + 1] if RESTORE in command else ""
    return _seconds(read_checkpoint(path)) if os.path.isfile(path) else 0.0


def _check_same_request(path: Path, request: dict) -> None:
    remedy = f"it says which options {path.parent} was trained with; put the file back, or remove the folder"
    found = read_record(path, remedy, required=("command", "inputs"))
    if found != request:
        check_same(path.parent, _by_option(found), _by_option(request))
        raise KDError(f"{path.parent} holds a run with other options (see {path}); choose another --out or remove it")


def _by_option(request: dict) -> dict:
    """The request with its command as a mapping, option -> values, so that a comparison names the option."""
    options, name = {}, "command"
    for word in request["command"]:
        name = word if word.startswith("--") else name
        options.setdefault(name, []).extend([] if word.startswith("--") else [word])
    return {"command": options, "inputs": request["inputs"]}


def restore_last_checkpoint(checkpoints: Path) -> int:
    """Make sure that an existing checkpoint_last.pt can be read; return its number of updates, 0 without the file.

    fairseq copies checkpoint_last.pt in place, so a process that is killed during the copy leaves half a file. This
    function then replaces it by the newest complete checkpoint, or removes it if there is none, and prints a line.
    fairseq writes it after all other checkpoints of the same update, so when it is complete, they are too.
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
            with file_in_progress(last) as temporary:
                shutil.copyfile(path, temporary)
            print(f"{last} was cut off when the run was killed; continuing from {path.name}", file=sys.stderr)
            return updates_of(state)
    print(f"{last} was cut off when the run was killed; continuing from the beginning", file=sys.stderr)
    return 0


def _read(path: Path) -> dict | None:
    """The checkpoint, or None if it is cut off. Raises KDError for a complete one that is refused; the file is kept."""
    try:
        return read_checkpoint(path)
    except DamagedCheckpoint:
        return None


def _run(command: list[str], log: Path, max_update: int, label: str) -> None:
    """Run fairseq-train; write its output to `log` and the progress to standard error."""
    output, written = os.pipe()
    try:
        process = start_python(["fairseq_cli.train", *command[1:]], written)
    finally:
        os.close(written)
    progress = None
    with open(log, "a", encoding="utf-8") as file, open(output, encoding="utf-8", errors="replace") as lines:
        try:
            for line in lines:
                file.write(line)
                if (found := re.search(r'"num_updates": "(\d+)".*', line)) and "| train_inner |" in line:
                    updates = int(found.group(1))
                    progress = progress or Progress(label, max_update, "updates", done=updates)
                    loss = re.search(r'"loss": "([\d.]+)"', line)
                    progress.reach(updates, f"loss {loss.group(1)}" if loss else "")
                    file.flush()
            status = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
    if progress is not None:
        progress.finish()
    if status != 0:
        tail = "".join(log.read_text(encoding="utf-8").splitlines(keepends=True)[-LOG_LINES_SHOWN:])
        raise KDError(f"fairseq-train ended with status {status}; the end of {log}:\n{tail}")
