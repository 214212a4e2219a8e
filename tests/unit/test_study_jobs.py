"""What a stage and `study run` make of jobs that are not their own, and of jobs that were ended from outside."""

import json
import subprocess
import sys

import pytest
from study_helpers import ENVIRONMENT, write_spec

from fairseq_kd.study.opening import open_plan
from fairseq_kd.study.run import RunOptions, _is_elsewhere, note_ended_jobs
from fairseq_kd.study.state import end_of_log, stage_states

# as Snakemake 9.27.1 with snakemake-executor-plugin-slurm 2.8.0 writes it
ERROR = """
Error in rule evaluate:
    message: SLURM-job '68' failed, SLURM status is: 'TIMEOUT'. For further error details see the cluster/cloud log.
    jobid: 11
    input: stages/prepare-1/done.json
    output: stages/{stage}/done.json (update)
    log: /work/.snakemake/slurm_logs/68.log (check log file(s) for error details)
    shell:
        exec python -m fairseq_kd.study.stage {stage}
"""


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def test_a_stage_that_another_job_has_done_is_not_run_again_unless_its_inputs_have_changed(tmp_path):
    stage = {"kind": "evaluate", "name": "evaluate-2", "command": ["fairseq-kd", "--version"], "inputs": ["student-1"]}
    write(tmp_path / "plan.json", {"stages": {"evaluate-2": stage}, "on_gpu": [], "raw": None})
    folder = tmp_path / "stages" / "evaluate-2"
    write(folder / "result.json", {})
    write(folder / "done.json", {"inputs": {"student-1": "old"}})
    command = [sys.executable, "-m", "fairseq_kd.study.stage", "evaluate-2"]
    logs = []
    for fingerprint in ("old", "new"):
        write(tmp_path / "stages" / "student-1" / "done.json", {"fingerprint": fingerprint})
        subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, check=True)
        logs.append((folder / "log.txt").read_text())
    assert logs[0] == "done by the job of an earlier run\n"
    assert "fairseq-kd --version" in logs[1].removeprefix(logs[0])
    assert json.loads((folder / "done.json").read_text())["inputs"] == {"student-1": "new"}


def test_a_job_that_a_cluster_has_ended_is_a_failed_stage_whose_log_says_why(tmp_path):
    plan = open_plan(str(write_spec(tmp_path)), tmp_path / "work")
    ended, done = (name for name, stage in plan.stages.items() if stage.kind in ("teacher", "prepare"))
    write(tmp_path / "work" / "stages" / done / "done.json", {})
    note_ended_jobs(plan, tmp_path / "work", ERROR.format(stage=ended) + ERROR.format(stage=done))
    states = stage_states(plan, tmp_path / "work")
    assert (states[ended], states[done]) == ("failed", "done") and list(states.values()).count("failed") == 1
    shown = end_of_log(tmp_path / "work" / "stages" / ended, 12)
    assert "SLURM status is: 'TIMEOUT'" in shown and "slurm_logs/68.log" in shown


@pytest.mark.parametrize(
    ("words", "expected"),
    [(("--executor", "slurm"), True), (("--workflow-profile=p",), True), (("--keep-incomplete",), False)],
)
def test_a_cluster_is_told_by_the_options_or_the_profile_in_the_environment(words, expected, monkeypatch):
    monkeypatch.delenv("SNAKEMAKE_PROFILE", raising=False)
    assert _is_elsewhere(RunOptions(passed_on=words)) is expected
    monkeypatch.setenv("SNAKEMAKE_PROFILE", "mine")
    assert _is_elsewhere(RunOptions(passed_on=words))
