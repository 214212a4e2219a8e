"""Run a study: Snakemake in a process of its own, one line of progress, and a report of failed stages."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from fairseq_kd.artifacts.locks import exclusive
from fairseq_kd.artifacts.records import write_record
from fairseq_kd.artifacts.writing import ensure_writable_folder, write_json
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.preloaded import preloaded_python
from fairseq_kd.core.process import Terminated, dying_with_this_process
from fairseq_kd.study.plan import PLAN_NAME, Plan
from fairseq_kd.study.show import RESULTS_NAME, StudyProgress, format_failures, write_results
from fairseq_kd.study.stage import GPUS
from fairseq_kd.study.state import DONE, FAILED, record_of, stage_states
from fairseq_kd.study.state import LOG as STAGE_LOG

SNAKEFILE = Path(__file__).with_name("Snakefile")
LOG = "snakemake.log"
LOG_LINES_SHOWN = 15
FAILURE = 1
SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_TO_CANCEL = 60
THREADS = ("OMP_NUM_THREADS", "GOTO_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
THREADS += ("VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True)
class RunOptions:
    """How stages are run.

    jobs: stages at a time; None: as many as there are cores or GPUs. threads: of each stage. passed_on: options for
    Snakemake.
    """

    jobs: int | None = None
    threads: int = 1
    cpu: bool = False
    dry_run: bool = False
    passed_on: tuple = ()


def run_study(plan: Plan, work: Path, options: RunOptions) -> int:
    """Run the stages that are not done and print the outcome; return 0, or 1 when stages have failed."""
    found = run_stages(plan, work, options)
    if options.dry_run:
        return 0
    _remove_other_cells(plan, work)
    if failures := format_failures(plan, work, found):
        print(failures, file=sys.stderr)
        return FAILURE
    print(f"{len(plan.cells)} cells and {len(plan.stages)} stages are done; results: {work / RESULTS_NAME}")
    return 0


def run_stages(plan: Plan, work: Path, options: RunOptions) -> dict:
    """Run the stages that are not done, write results.json and return the state of each stage (`stage_states`).

    Raises KDError when Snakemake cannot start, or ends before all is done and no stage has failed in this run.
    """
    if find_spec("snakemake") is None:
        raise KDError("studies need Snakemake: pip install 'fairseq_kd[study]'")
    ensure_writable_folder(work)
    report_older(plan)
    with exclusive(work / "study"):  # in place of Snakemake's own lock, which outlives a killed process
        write_record(work / PLAN_NAME, plan.as_dict())
        _link_cells(plan, work)
        _forget_stale(plan, work)
        before = _failures(plan, work)
        begin = (work / LOG).stat().st_size if (work / LOG).is_file() else 0
        status = _snakemake(plan, work, options)
        said = (work / LOG).read_bytes()[begin:].decode(errors="replace")
        if not options.dry_run:
            note_ended_jobs(plan, work, said, before)
            write_results(plan, work)
        found = stage_states(plan, work)
        finished = status == 0 and (options.dry_run or set(found.values()) == {"done"})
        if not finished and _failures(plan, work) == before:
            raise KDError(f"snakemake ended with status {status}; the end of {work / LOG}:\n{_end(said)}")
        if options.dry_run:
            print(said)
        return found


def report_older(plan: Plan) -> None:
    """Print to standard error which stages other versions made, and whether they are reused."""
    if plan.about_older:
        print(f"{plan.about_older}; {'reused' if plan.takes_older else 'recomputed'}", file=sys.stderr, flush=True)


def _forget_stale(plan: Plan, work: Path) -> None:
    """Remove each invalid done.json, because Snakemake would count its stage as done.

    A file that was cut off and a file next to failed.json are invalid: Snakemake restores done.json when a stage fails.
    """
    for name, state in stage_states(plan, work).items():
        folder = work / "stages" / name
        if state == "failed" or (state == "waiting" and record_of(folder) is None):
            if (folder / DONE).is_dir():
                raise KDError(f"{folder / DONE} is a folder: remove it, the end of a stage is recorded there")
            if state == "waiting" and (folder / DONE).is_file():
                print(f"{folder / DONE} is damaged: the stage is run again", file=sys.stderr, flush=True)
            (folder / DONE).unlink(missing_ok=True)


def _failures(plan: Plan, work: Path) -> dict:
    """Name of each failed stage -> time of its failure in ns; the time changes when the stage fails again."""
    found = {}
    for name in plan.stages:
        with contextlib.suppress(FileNotFoundError):
            found[name] = (work / "stages" / name / FAILED).stat().st_mtime_ns
    return found


def _link_cells(plan: Plan, work: Path) -> None:
    """Make the links cells/NAME/1-prepare ... to the folders of the cell's stages, in order."""
    for name in plan.cells:
        folder = work / "cells" / name
        folder.mkdir(parents=True, exist_ok=True)
        for link in folder.iterdir():
            link.unlink()
        for number, stage in enumerate(plan.stages_of(name), start=1):
            (folder / f"{number}-{plan.stages[stage].kind}").symlink_to(Path("../../stages") / stage)


def _remove_other_cells(plan: Plan, work: Path) -> None:
    """Remove the links of cells that the spec no longer has, and nothing that is not a link."""
    for folder in (work / "cells").iterdir():
        if folder.is_dir() and folder.name not in plan.cells:
            for link in filter(Path.is_symlink, list(folder.iterdir())):
                link.unlink()
            with contextlib.suppress(OSError):
                folder.rmdir()


def note_ended_jobs(plan: Plan, work: Path, log: str, before: dict) -> None:
    """Record the failure of jobs that could not record it: a cluster refused them, or ended them for memory or time.

    log: Snakemake's log of this run. Its message about a job is added to the end of the stage's log. before: the
    failures of earlier runs, see `_failures`.
    """
    states, new = stage_states(plan, work), dict(_failures(plan, work).items() - before.items())
    unknown = {name for name, state in states.items() if state == "waiting" or (state == "failed" and name not in new)}
    for error in re.split(r"^Error in rule ", log, flags=re.MULTILINE)[1:]:
        found = dict(re.findall(r"^ {4}(message|output|log): (.*)", error, re.MULTILINE)[:3])
        output = re.match(r"stages/([^/]+)/", found.get("output", ""))
        if output is None or output[1] not in unknown:
            continue
        folder = work / "stages" / output[1]
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / STAGE_LOG, "a", encoding="utf-8") as file:
            message = found.get("message", "the process of this stage was killed").split("For further error details")[0]
            print(message, found.get("log", ""), sep="\n", file=file)
        write_json(folder / FAILED, {"stage": output[1]})  # no seal: only its existence matters


def _snakemake(plan: Plan, work: Path, options: RunOptions) -> int:
    gpus = 0 if options.cpu else _gpus()
    command = [sys.executable, "-m", "snakemake", *_arguments(work, options, gpus)]
    with open(work / LOG, "a", encoding="utf-8") as log, _stage_environment(plan, work, options, gpus) as environment:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            preexec_fn=dying_with_this_process(interruptible=True),
            start_new_session=True,  # a group of its own, so that it gets a signal from here, and gets it once
        )
        progress = StudyProgress(plan, work)
        try:
            while process.poll() is None:
                progress.look()
                time.sleep(SECONDS_BETWEEN_LOOKS)
        except (KeyboardInterrupt, Terminated):
            _interrupt(process)
            raise
        progress.finish()
    return process.returncode


def _interrupt(process: subprocess.Popen) -> None:
    """Interrupt Snakemake and the stages that it runs on this machine, as Ctrl-C in a terminal would.

    Snakemake then starts nothing more, and cancels its jobs on a cluster. A stage that was interrupted is continued by
    the next run.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(SECONDS_TO_CANCEL)


def _arguments(work: Path, options: RunOptions, gpus: int) -> list[str]:
    # stages that need no GPU run beside the others, which wait for a free GPU
    jobs = options.jobs or max(1, gpus, (os.cpu_count() or 1) // options.threads)
    elsewhere = _is_elsewhere(options)
    return [
        *("--snakefile", str(SNAKEFILE), "--directory", str(work)),
        *("--config", f"threads={options.threads}", f"gpu={int(bool(gpus or (elsewhere and not options.cpu)))}"),
        *(
            ["--jobs", str(jobs)]
            if elsewhere
            else ["--cores", str(jobs * options.threads), "--resources", f"gpu={gpus}"]
        ),
        *("--keep-going", "--ignore-incomplete", "--rerun-triggers", "mtime", "--nolock", "--scheduler", "greedy"),
        *(["--dry-run"] if options.dry_run else []),
        *options.passed_on,
    ]


def _stage_environment(plan: Plan, work: Path, options: RunOptions, gpus: int):
    """A context: the environment of Snakemake. On the CPU of this machine, stages are forks of one process."""
    environment = _environment(options, gpus)
    left = sum(state != "done" for state in stage_states(plan, work).values())
    if gpus or options.dry_run or _is_elsewhere(options) or left < 2:
        return contextlib.nullcontext(environment)
    # Snakemake sets these variables for each stage
    return preloaded_python(environment | dict.fromkeys(THREADS, str(options.threads)), separate=True)


def _environment(options: RunOptions, gpus: int) -> dict:
    if options.cpu:
        return os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    names = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
    return os.environ | ({} if _is_elsewhere(options) else {GPUS: names})


def _is_elsewhere(options: RunOptions) -> bool:
    """Whether Snakemake runs the stages on a cluster."""
    given = {word.split("=")[0] for word in options.passed_on}
    return bool(given & {"--executor", "-e", "--profile", "--workflow-profile"}) or "SNAKEMAKE_PROFILE" in os.environ


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _end(log: str) -> str:
    return "\n".join(log.splitlines()[-LOG_LINES_SHOWN:])
