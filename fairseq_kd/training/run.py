"""Runs of stock fairseq-train, each in a process of its own, with progress, a log, and a record when it is complete.

The same call continues a killed run.
"""

import os
import selectors
import shlex
import shutil
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from fairseq_kd.artifacts.folders import remove_leftovers
from fairseq_kd.artifacts.hashes import sha256_file
from fairseq_kd.artifacts.locks import exclusive
from fairseq_kd.artifacts.records import create_record, read_record, write_record
from fairseq_kd.artifacts.request import check_same
from fairseq_kd.artifacts.writing import ensure_writable_folder, file_in_progress
from fairseq_kd.core.errors import KDError
from fairseq_kd.inference.checkpoint import DamagedCheckpoint, read_checkpoint, updates_of
from fairseq_kd.training.running import Running

RECORD = "train.json"  # exists once the run is complete
REQUEST = "request.json"  # exists from the start
RESTORE = "--restore-file"
WITHOUT_VALIDATION = "--disable-validation"  # fairseq then writes no checkpoint_best.pt


@dataclass(frozen=True)
class Training:
    """One run: train until `max_update`.

    folder: gets checkpoints/, train.log, request.json and, at the end, train.json.
    arguments: the arguments of fairseq-train, without --save-dir. inputs: hashes of the files that the run depends on;
    a continued run must have the same. label: the name of the run in the progress.
    """

    folder: Path
    arguments: list[str]
    inputs: dict
    max_update: int
    label: str

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.folder / "checkpoints"

    @property
    def request(self) -> dict:
        """What the run is asked to make: the content of request.json."""
        command = ["fairseq-train", *self.arguments, "--save-dir", str(self.checkpoints)]
        return {"command": command, "inputs": self.inputs}


def remove_other(folder, arguments: list[str], inputs: dict) -> None:
    """Remove the folder of a run that was begun with other arguments or inputs, or whose removal was interrupted."""
    wanted = Training(Path(folder), arguments, inputs, 0, "").request
    if Path(folder).exists() and read_record(Path(folder) / REQUEST, f"remove {folder}") != wanted:
        shutil.rmtree(folder)


def train(folder, arguments: list[str], inputs: dict, max_update: int, label: str, threads: int | None = None) -> dict:
    """One `Training` alone, with this number of threads (None: torch's default). See `train_side_by_side`."""
    return train_side_by_side([Training(Path(folder), arguments, inputs, max_update, label)], threads)[0]


def train_side_by_side(trainings: list[Training], threads: int | None = None) -> list[dict]:
    """Run the trainings at the same time, each with this number of threads (None: torch's default).

    A killed run is continued; a complete run is not repeated. If one fails, the others are stopped, and the same call
    continues them.
    Returns the records in the order of the trainings: {"checkpoint", "command", "seconds", "updates", ...}.
    Raises KDError when a folder belongs to another run, or fairseq-train fails.
    """
    with ExitStack() as locks:
        left = []
        for training in trainings:
            _check_request(training)
            if (training.folder / RECORD).exists():
                remove_leftovers(training.folder / "training")
                continue
            locks.enter_context(exclusive(training.folder / "training"))
            if not (training.folder / RECORD).exists():  # another process may have written it and finished since
                left.append(training)
        if left:
            _train(left, threads)
    return [_check_record(training.folder / RECORD) for training in trainings]


def _check_request(training: Training) -> None:
    ensure_writable_folder(training.folder)
    path = training.folder / REQUEST
    create_record(path, training.request)
    _check_same_request(path, training.request)  # another process may have written its own meanwhile


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


def _train(trainings: list[Training], threads: int | None) -> None:
    # A run that was killed between its last checkpoint and the record needs no fairseq-train: it would make and save
    # one more update.
    found = [(training, restore_last_checkpoint(training.checkpoints)) for training in trainings]
    _run([(training, updates > 0) for training, updates in found if updates < training.max_update], threads)
    for training in trainings:
        _write_record(training)


def _run(trainings: list[tuple[Training, bool]], threads: int | None) -> None:
    """Run fairseq-train for each (training, whether it was begun) at the same time, until the last one has ended."""
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        for training, begun in trainings:
            command = training.request["command"]
            words = _continued(command) if begun else command
            how = training.folder / "train.log", training.max_update, training.label, threads
            selector.register(stack.enter_context(Running(words[1:], *how)), selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                if not key.fileobj.read():
                    selector.unregister(key.fileobj)
                    key.fileobj.end()


def _write_record(training: Training) -> None:
    state = read_checkpoint(training.checkpoints / "checkpoint_last.pt")
    command = training.request["command"]
    chosen = "checkpoint_last.pt" if WITHOUT_VALIDATION in command else "checkpoint_best.pt"
    best = training.checkpoints / chosen
    record = {
        "checkpoint": str(best),
        "checkpoint_sha256": sha256_file(best),
        "command": shlex.join(command),
        "seconds": round(_seconds(state) - _seconds_before(command), 1),
        "updates": updates_of(state),
        "inputs": training.inputs,
    }
    write_record(training.folder / RECORD, record)


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
