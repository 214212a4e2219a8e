"""What a stage and `study run` make of jobs that are not their own, and of jobs that were ended from outside."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from faults_helpers import DAMAGES, damage
from process_helpers import run_python
from study_helpers import ENVIRONMENT, write_spec

from fairseq_kd.artifacts.hashes import sha256_file
from fairseq_kd.artifacts.records import write_record
from fairseq_kd.core.errors import KDError
from fairseq_kd.study import run as study_run
from fairseq_kd.study import stage as study_stage
from fairseq_kd.study.check import open_plan
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


def run_stage(folder):
    return run_python("-m", "fairseq_kd.study.stage", "evaluate-2", cwd=folder, env=ENVIRONMENT)


def an_evaluation(inputs=()) -> dict:
    """A planned stage."""
    from fairseq_kd.artifacts.manifest import library_versions
    from fairseq_kd.study.maker import made_by

    stage = {"kind": "evaluate", "name": "evaluate-2", "command": ["fairseq-kd", "--version"], "inputs": list(inputs)}
    return stage | {"made_by": made_by("evaluate", library_versions())}


def test_a_stage_that_another_job_has_done_is_not_run_again_unless_its_inputs_have_changed(tmp_path):
    stage = an_evaluation(["student-1"])
    write(tmp_path / "plan.json", {"stages": {"evaluate-2": stage}, "on_gpu": [], "raw": None})
    folder = tmp_path / "stages" / "evaluate-2"
    write(folder / "result.json", {})
    old, new = (hashlib.sha256(word.encode()).hexdigest() for word in ("old", "new"))
    write(folder / "done.json", {"fingerprint": "x", "inputs": {"student-1": old}})
    logs = []
    for fingerprint in ("old", "new"):
        model = tmp_path / "stages" / "student-1" / "checkpoints" / "checkpoint_best.pt"
        model.parent.mkdir(parents=True, exist_ok=True)
        model.write_text(fingerprint)
        write(tmp_path / "stages" / "student-1" / "done.json", {"fingerprint": sha256_file(model)})
        assert run_stage(tmp_path).returncode == 0
        logs.append((folder / "log.txt").read_text())
    assert logs[0] == "a job of an earlier run has finished this stage\n"
    assert "fairseq-kd --version" in logs[1].removeprefix(logs[0])
    assert json.loads((folder / "done.json").read_text())["inputs"] == {"student-1": new}


@pytest.mark.parametrize("made_by", [{"format": 1, "torch": "2.12.0"}, None])
def test_a_job_that_was_planned_for_other_versions_does_not_run(tmp_path, made_by):
    write(
        tmp_path / "plan.json",
        {"stages": {"evaluate-2": an_evaluation() | {"made_by": made_by}}, "on_gpu": [], "raw": None},
    )
    folder = tmp_path / "stages" / "evaluate-2"
    write(folder / "result.json", {})
    assert run_stage(tmp_path).returncode == 1
    said = (folder / "log.txt").read_text()
    assert f"was planned for {made_by}, this process has" in said and "Traceback" not in said
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "failed.json", "log.txt", "result.json"]


def test_a_job_that_a_cluster_has_ended_is_a_failed_stage_whose_log_says_why(tmp_path):
    plan = open_plan(str(write_spec(tmp_path)), tmp_path / "work")
    ended, done = (name for name, stage in plan.stages.items() if stage.kind in ("teacher", "prepare"))
    write(tmp_path / "work" / "stages" / done / "done.json", {"fingerprint": "x"})
    note_ended_jobs(plan, tmp_path / "work", ERROR.format(stage=ended) + ERROR.format(stage=done), {})
    states = stage_states(plan, tmp_path / "work")
    assert (states[ended], states[done]) == ("failed", "done") and list(states.values()).count("failed") == 1
    shown = end_of_log(tmp_path / "work" / "stages" / ended, 12)
    assert "SLURM status is: 'TIMEOUT'" in shown and "slurm_logs/68.log" in shown


@pytest.mark.parametrize("how", DAMAGES)
def test_a_job_refuses_a_damaged_plan_in_one_line(tmp_path, monkeypatch, capsys, how):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(study_stage, "die_with_parent", lambda parent: None)
    monkeypatch.setattr(study_stage.sys, "argv", ["stage", "evaluate-2"])
    write_record(tmp_path / "plan.json", {"stages": {"evaluate-2": an_evaluation()}, "on_gpu": [], "raw": None})
    damage(tmp_path / "plan.json", how)
    assert study_stage.main() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "plan.json") in line and "run `fairseq-kd study run` again" in line
    assert not (tmp_path / "stages").exists()


def test_a_stage_that_ends_by_a_defect_is_a_failed_stage_whose_log_says_where(tmp_path):
    stage = {"kind": "unknown", "name": "evaluate-2", "command": ["fairseq-kd"], "inputs": []}
    write(tmp_path / "plan.json", {"stages": {"evaluate-2": stage}, "on_gpu": [], "raw": None})
    assert run_stage(tmp_path).returncode == 1
    folder = tmp_path / "stages" / "evaluate-2"
    assert "Traceback" in (folder / "log.txt").read_text() and (folder / "failed.json").is_file()


def test_a_stage_whose_log_cannot_be_written_is_a_failed_stage_without_a_traceback(tmp_path):
    stage = {"kind": "unknown", "name": "evaluate-2", "command": ["fairseq-kd"], "inputs": []}
    write(tmp_path / "plan.json", {"stages": {"evaluate-2": stage}, "on_gpu": [], "raw": None})
    folder = tmp_path / "stages" / "evaluate-2"
    folder.mkdir(parents=True)
    (folder / "log.txt").symlink_to("/dev/full")
    found = run_stage(tmp_path)
    assert found.returncode != 0 and found.stderr == ""
    assert (folder / "failed.json").is_file()


@pytest.fixture
def failed(tmp_path):
    """A planned study, its folder, and the folder of its teacher, which has failed in an earlier run."""
    plan = open_plan(str(write_spec(tmp_path)), tmp_path / "work")
    (teacher,) = (name for name, stage in plan.stages.items() if stage.kind == "teacher")
    folder = tmp_path / "work" / "stages" / teacher
    write(folder / "failed.json", {})
    (folder / "log.txt").write_text("an old failure\n")
    (tmp_path / "work" / "snakemake.log").write_text("of an earlier run\n")
    return plan, tmp_path / "work", folder


def snakemake(monkeypatch, status, does=lambda: None):
    """In the place of Snakemake: one line in its log."""

    def run(plan, work, options):
        does()
        with open(work / "snakemake.log", "a") as log:
            print("invalid choice: 'slrm'", file=log)
        return status

    monkeypatch.setattr(study_run, "_snakemake", run)


def test_an_old_failure_does_not_hide_what_snakemake_says_now(failed, monkeypatch, capsys):
    plan, work, folder = failed
    snakemake(monkeypatch, 2)
    with pytest.raises(KDError, match="snakemake ended with status 2") as error:
        study_run.run_study(plan, work, RunOptions())
    assert "slrm" in str(error.value) and "of an earlier run" not in str(error.value)
    snakemake(monkeypatch, 1, lambda: os.utime(folder / "failed.json", ns=(1, 1)))
    assert study_run.run_study(plan, work, RunOptions()) == 1  # it has failed again
    assert "an old failure" in capsys.readouterr().err


def test_a_job_that_a_cluster_ends_in_a_stage_that_had_failed_before_is_noted_too(failed):
    plan, work, folder = failed
    note_ended_jobs(plan, work, ERROR.format(stage=folder.name), study_run._failures(plan, work))
    assert "TIMEOUT" in end_of_log(folder, 2)


def test_a_dry_run_shows_what_snakemake_says(failed, monkeypatch, capsys):
    plan, work, _ = failed
    snakemake(monkeypatch, 0)
    assert study_run.run_study(plan, work, RunOptions(dry_run=True)) == 0
    assert capsys.readouterr().out.split("\n")[0] == "invalid choice: 'slrm'"
    snakemake(monkeypatch, 2)
    with pytest.raises(KDError, match="slrm"):
        study_run.run_study(plan, work, RunOptions(dry_run=True))


def test_a_record_that_was_cut_off_is_that_of_a_stage_that_is_not_done(failed, monkeypatch):
    plan, work, folder = failed
    (folder / "failed.json").unlink()
    (folder / "done.json").write_text('{"stage": "teach')
    assert stage_states(plan, work)[folder.name] == "waiting"
    snakemake(monkeypatch, 2)
    with pytest.raises(KDError):
        study_run.run_study(plan, work, RunOptions())
    assert not (folder / "done.json").exists()  # Snakemake would take it for done


def test_the_links_of_cells_that_the_spec_no_longer_has_are_removed(failed, monkeypatch):
    plan, work, folder = failed
    (folder / "failed.json").unlink()
    for stage in plan.stages:
        write(work / "stages" / stage / "done.json", {"fingerprint": "x", "command": "", "seconds": 1})
    for name in ("old", "kept"):
        (work / "cells" / name).mkdir(parents=True)
        (work / "cells" / name / "1-prepare").symlink_to("../../stages")
    (work / "cells" / "kept" / "notes.txt").write_text("precious")
    snakemake(monkeypatch, 0)
    assert study_run.run_study(plan, work, RunOptions()) == 0
    assert {path.name for path in (work / "cells").iterdir()} == {*plan.cells, "kept"}
    assert [path.name for path in (work / "cells" / "kept").iterdir()] == ["notes.txt"]


def test_a_stage_whose_parent_has_died_before_it_could_ask_for_a_signal_does_not_run(tmp_path):
    stage = {"kind": "evaluate", "name": "evaluate-2", "command": ["fairseq-kd", "--version"], "inputs": []}
    write(tmp_path / "plan.json", {"stages": {"evaluate-2": stage}, "on_gpu": [], "raw": None})
    folder = tmp_path / "stages" / "evaluate-2"
    write(folder / "result.json", {})
    gone = subprocess.Popen(["true"])
    gone.wait()
    command = [sys.executable, "-m", "fairseq_kd.study.stage", "evaluate-2"]
    code = subprocess.run([*command, str(gone.pid)], cwd=tmp_path, env=ENVIRONMENT).returncode
    assert not (folder / "done.json").exists() and code == -signal.SIGKILL
    write(tmp_path / "plan.json", {"stages": {"evaluate-2": an_evaluation()}, "on_gpu": [], "raw": None})
    subprocess.run([*command, str(os.getpid())], cwd=tmp_path, env=ENVIRONMENT, check=True)
    assert (folder / "done.json").is_file()


def test_a_child_whose_parent_has_died_already_dies_and_no_other():
    from fairseq_kd.core.process import dying_with_this_process

    reader, writer = os.pipe()
    if (parent := os.fork()) == 0:  # everything in here must end by _exit
        prepare, us = dying_with_this_process(), os.getpid()
        if os.fork() == 0:
            while os.getppid() == us:
                time.sleep(0.001)
            prepare()
            os.write(writer, b"alive")
        os._exit(0)
    os.waitpid(parent, 0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        assert file.read() == b""  # the end of the file: the grandchild has ended
    done = subprocess.run(["echo", "alive"], preexec_fn=dying_with_this_process(), capture_output=True, check=True)
    assert done.stdout == b"alive\n"


def test_a_python_in_a_path_with_a_space_is_one_word_of_the_shell():
    (command,) = re.findall(r"exec .*", study_run.SNAKEFILE.read_text())
    assert command.startswith("exec {params.python:q} ") and command.rstrip('",').endswith("{params.stage} $PPID")


@pytest.mark.parametrize(
    ("words", "expected"),
    [(("--executor", "slurm"), True), (("--workflow-profile=p",), True), (("--keep-incomplete",), False)],
)
def test_a_cluster_is_told_by_the_options_or_the_profile_in_the_environment(words, expected, monkeypatch):
    monkeypatch.delenv("SNAKEMAKE_PROFILE", raising=False)
    assert _is_elsewhere(RunOptions(passed_on=words)) is expected
    monkeypatch.setenv("SNAKEMAKE_PROFILE", "mine")
    assert _is_elsewhere(RunOptions(passed_on=words))
