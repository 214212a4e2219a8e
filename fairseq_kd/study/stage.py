"""The process of one stage. Snakemake runs it in WORK as `python -m fairseq_kd.study.stage NAME [PARENT]`.

stages/NAME gets the outputs and log.txt, and at the end done.json, or failed.json when the command has failed.
"""

import contextlib
import os
import shlex
import sys
import time
import traceback
from pathlib import Path

from fairseq_kd.artifacts.hashes import sha256_file
from fairseq_kd.artifacts.locks import held, try_lock
from fairseq_kd.artifacts.manifest import library_versions
from fairseq_kd.artifacts.records import read_record, write_record
from fairseq_kd.artifacts.writing import write_json
from fairseq_kd.core.errors import KDError, report
from fairseq_kd.core.paths import PACKAGE
from fairseq_kd.core.preloaded import has_server, run_python
from fairseq_kd.core.process import die_with_parent
from fairseq_kd.study.existing import existing_path, unchanged
from fairseq_kd.study.key import with_parts
from fairseq_kd.study.maker import TRAININGS, made_by
from fairseq_kd.study.plan import PLAN_NAME
from fairseq_kd.study.state import (
    CHOSEN_TEACHER,
    DONE,
    FAILED,
    LOCK,
    LOG,
    fingerprint_of,
    output_of,
    read_output,
    record_of,
)

FAILURE = 1
GPUS = "FAIRSEQ_KD_GPUS"  # names of devices, separated by commas; `study run` sets it
VISIBLE = "CUDA_VISIBLE_DEVICES"


def main() -> int:
    """Run the stage that the command line names. The second word is the id of the process that waits for it."""
    work, name, parent = Path.cwd(), sys.argv[1], int(sys.argv[2]) if sys.argv[2:] else os.getppid()
    die_with_parent(parent)  # a killed Snakemake does not end its jobs
    if sys.argv[2:] and has_server():  # a fork of the server, which is its parent, has loaded torch
        return run_python(["fairseq_kd.study.stage", name])
    try:
        plan = _read_plan(work)
    except KDError as error:
        report(error)
        return FAILURE
    with _a_gpu(work) if plan["stages"][name]["kind"] in plan["on_gpu"] else contextlib.nullcontext():
        return run_stage(work, plan, name)


def _read_plan(work: Path) -> dict:
    remedy = "run `fairseq-kd study run` again, which writes it"
    if (plan := read_record(work / PLAN_NAME, remedy, required=("stages", "on_gpu", "raw"))) is None:
        raise KDError(f"{work / PLAN_NAME} does not exist: {remedy}")
    return plan


@contextlib.contextmanager
def _a_gpu(work: Path):
    """With several GPUs in $FAIRSEQ_KD_GPUS, use one that no other stage on this machine uses."""
    names, before = os.environ.get(GPUS, "").split(","), os.environ.get(VISIBLE)
    if len(names) < 2:
        yield
        return
    name, lock = _free_gpu(work, names)
    with lock:
        os.environ[VISIBLE] = name
        try:
            yield
        finally:
            del os.environ[VISIBLE]
            if before is not None:
                os.environ[VISIBLE] = before


def _free_gpu(work: Path, names: list[str]):
    """(name of a free GPU, its open lock file, which holds the lock until it is closed); waits until one is free."""
    while True:
        for name in names:
            lock = open(work / f".gpu-{name}.lock", "w")  # noqa: SIM115
            if try_lock(lock):
                return name, lock
            lock.close()
        time.sleep(1)


def run_stage(work: Path, plan: dict, name: str) -> int:
    """Run or continue a stage, with all its output in its log; return its exit status.

    A stage that is done is not run again while its inputs are the same: on a cluster, jobs of a killed study continue,
    so a stage may already be done when its job starts.
    """
    stage, folder = plan["stages"][name], work / "stages" / name
    folder.mkdir(parents=True, exist_ok=True)
    # waits for a job of a killed study that still runs, for instance on a cluster
    with held(folder / LOCK), open(folder / LOG, "a", encoding="utf-8", buffering=1) as log:
        (folder / FAILED).unlink(missing_ok=True)
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
        try:
            _complete(work, plan, stage, folder)
        except Exception as error:  # any kind: without failed.json the stage would not count as failed
            _note_failure(folder, name, error)
            return FAILURE
    return 0


def _note_failure(folder: Path, name: str, error: Exception) -> None:
    with contextlib.suppress(OSError):  # the disk that holds the log may be full
        if isinstance(error, KDError):
            report(error)
        else:
            traceback.print_exception(error)
    with contextlib.suppress(OSError, KDError):  # the disk may be full
        write_json(folder / FAILED, {"stage": name})  # no seal: only its existence matters


def _complete(work: Path, plan: dict, stage: dict, folder: Path) -> None:
    if stage.get("old"):  # done when it was planned, from inputs of its own versions
        if record_of(folder) is None:
            raise KDError(f"{stage['name']}, which other versions made, was removed: run `fairseq-kd study run` again")
        return
    inputs = {source: fingerprint_of(work / "stages" / source) for source in stage["inputs"]}
    if (record_of(folder) or {}).get("inputs") == inputs:
        print("a job of an earlier run has finished this stage", flush=True)
        return
    _check_maker(stage)
    (folder / DONE).unlink(missing_ok=True)
    existing = plan.get("existing", {})
    command = resolve(stage["command"], work, folder, plan["raw"], existing)
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {shlex.join(command)}", flush=True)
    with unchanged(stage["command"], existing):
        record = _execute(stage, command, folder, inputs)
    made = {"made_by": stage["made_by"], "versions": library_versions()}
    write_record(folder / DONE, {"stage": stage["name"], **record, "inputs": inputs, **made})


def _check_maker(stage: dict) -> None:
    """Raises KDError when this process has other versions than the name of the stage says."""
    if stage.get("old"):
        raise KDError(
            f"other versions made {stage['name']}, so this process cannot run it; run `fairseq-kd study run` again"
        )
    planned, now = stage.get("made_by"), made_by(stage["kind"], library_versions(), stage["command"])
    if planned != now:
        raise KDError(
            f"{stage['name']} was planned for {planned}, this process has {now}: other versions were installed since; "
            "run `fairseq-kd study run` again"
        )


def resolve(command: list[str], work, folder, raw, existing: dict) -> list[str]:
    """A planned command with real paths in place of `@/`, `@out/`, `@existing/`, `@raw` and `@user-dir`.

    existing: see `Existing`.
    """
    paths = {"@user-dir": PACKAGE, "@raw": raw}

    def path(part: str) -> str:
        if part.startswith("@/"):
            return f"{work}{part[1:]}"
        if part.startswith("@out/"):
            return f"{folder}/{part.removeprefix('@out/')}"
        return existing_path(str(paths.get(part, part)), existing)

    return [with_parts(word, path) for word in command]


def _execute(stage: dict, command: list[str], folder: Path, inputs: dict) -> dict:
    """Run the command; return its part of done.json: command, seconds, fingerprint. Raises KDError when it fails."""
    if stage["kind"] in TRAININGS:
        from fairseq_kd.training.run import train  # imports torch

        last = int(command[command.index("--max-update") + 1])  # a round of a student begins above 0
        record = train(folder, command[1:], inputs, last, stage["name"])
        known = {name: record[name] for name in ("command", "seconds", "updates")}
        return known | {"fingerprint": record["checkpoint_sha256"]}
    started = time.monotonic()
    status = run_python(["fairseq_kd.cli.main", *command[1:]])
    if status != 0:
        raise KDError(f"{shlex.join(command)} ended with status {status}")
    if stage["kind"] == "select":
        from fairseq_kd.artifacts.derived import link  # imports torch

        chosen = read_output(folder / "selection" / "selection.json")["chosen"]
        link(chosen, folder / CHOSEN_TEACHER)
    seconds = round(time.monotonic() - started, 1)
    return {"command": shlex.join(command), "seconds": seconds, "fingerprint": sha256_file(output_of(folder))}


if __name__ == "__main__":
    sys.exit(main())
