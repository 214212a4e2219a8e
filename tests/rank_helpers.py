"""Trainings by stock fairseq-train in one or two processes. All are forks of one process, which imports torch once.

Run as a script: `rank_helpers.py JOBS.json`. A job is {"name", "ranks", "command", "start"}; its command runs in each
of its ranks. start: a checkpoint of an earlier job, with which this one continues, or null. Beside JOBS.json lies
NAME.RANK.log for each rank, and done.json has the exit status of each.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run_jobs(jobs: dict, folder: Path, timeout: float = 400) -> dict:
    """{name: (ranks, command, start)} -> {name: (exit statuses by rank, output by rank)}."""
    folder.mkdir(exist_ok=True)
    listed = [
        {"name": name, "ranks": ranks, "command": [*map(str, words)], "start": start and str(start)}
        for name, (ranks, words, start) in jobs.items()
    ]
    (folder / "jobs.json").write_text(json.dumps(listed))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, __file__, str(folder / "jobs.json")]
    result = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=timeout)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    statuses = json.loads((folder / "done.json").read_text())
    return {
        name: (found, [(folder / f"{name}.{rank}.log").read_text() for rank in range(len(found))])
        for name, found in statuses.items()
    }


def _distributed(rank: int, ranks: int, port: int) -> list[str]:
    return [
        *("--distributed-backend", "gloo", "--distributed-world-size", str(ranks), "--distributed-no-spawn"),
        *("--distributed-init-method", f"tcp://127.0.0.1:{port}", "--distributed-rank", str(rank)),
    ]


def _run_rank(job: dict, log: Path, extra: list[str]) -> None:
    """Run the command in a fork, with all output in `log`. Does not return."""
    import fairseq_cli.train

    with open(log, "w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    status = 1
    try:
        sys.argv = ["fairseq-train", *job["command"], *extra]
        fairseq_cli.train.cli_main()
        status = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    sys.stdout.flush()
    os._exit(status)


def _run_job(job: dict, folder: Path) -> list[int]:
    """Return the exit status of each rank. When one rank fails, kill the others: they would wait for it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if job["start"]:
        target = Path(job["command"][job["command"].index("--save-dir") + 1]) / "checkpoint_last.pt"
        target.parent.mkdir()
        shutil.copyfile(job["start"], target)
    ranks, running, statuses = job["ranks"], {}, {}
    for rank in range(ranks):
        pid = os.fork()
        if pid == 0:
            extra = _distributed(rank, ranks, port) if ranks > 1 else []
            _run_rank(job, folder / f"{job['name']}.{rank}.log", extra)
        running[pid] = rank
    while running:
        pid, status = os.wait()
        statuses[running.pop(pid)] = os.waitstatus_to_exitcode(status)
        if status != 0:
            for other in running:
                os.kill(other, signal.SIGKILL)
    return [statuses[rank] for rank in range(ranks)]


def _main(jobs: Path) -> None:
    import fairseq_cli.train  # noqa: F401
    import hydra_helpers
    import torch._dynamo  # noqa: F401, which an optimizer imports

    import fairseq_kd.criterions.kd_word  # noqa: F401

    hydra_helpers.keep()
    done = {job["name"]: _run_job(job, jobs.parent) for job in json.loads(jobs.read_text())}
    (jobs.parent / "done.json").write_text(json.dumps(done))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
