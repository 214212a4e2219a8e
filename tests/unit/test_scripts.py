"""scripts/: the shell scripts run `fairseq-kd` with the words of its command line; the Python scripts answer --help."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from report_helpers import finish_study, plan_of

from fairseq_kd.artifacts.records import write_record
from fairseq_kd.cli.main import main
from fairseq_kd.quickstart.recipe import available_recipes
from fairseq_kd.study.spec import shipped_specs

SCRIPTS = ROOT / "scripts"
SHELL = sorted(path.name for path in SCRIPTS.glob("*.sh") if path.name != "common.sh")
MULTI30K = ["--source-lang", "de", "--target-lang", "en", "--vocab-size", "4000"]
RUNS = [
    (
        "collaboration.sh",
        ["multi30k", "--raw", "raw"],
        "study run collaboration --with-report --recipe multi30k --out runs/collaboration-multi30k --raw raw",
    ),
    ("sweep_capacity.sh", [], "study run capacity --with-report --recipe synthetic --out runs/capacity-synthetic"),
    (
        "sweep_capacity.sh",
        ["--dry-run"],
        "study run capacity --recipe synthetic --out runs/capacity-synthetic --dry-run",
    ),
    (
        "sweep_decoding.sh",
        ["multi30k", "--raw", "a b"],
        "study run decoding --with-report --recipe multi30k --out runs/decoding-multi30k --raw <a b>",
    ),
    (
        "noise_robustness.sh",
        ["--jobs", "2", "iwslt14.de-en"],
        "study run noise --with-report --recipe iwslt14.de-en --out runs/noise-iwslt14.de-en --jobs 2",
    ),
    (
        "noise_robustness.sh",
        ["--recipe", "my/own.yaml", "--out", "w"],
        "study run noise --with-report --recipe my/own.yaml --out runs/noise-own --recipe my/own.yaml --out w",
    ),
    ("search_parameters.sh", ["multi30k"], "search greedy --recipe multi30k --out runs/search-multi30k"),
    ("prepare_iwslt14.sh", [], "prepare iwslt14.de-en --out data-bin/iwslt14.de-en"),
    ("prepare_iwslt17.sh", ["--raw", "r"], "prepare iwslt17.en-fr --out data-bin/iwslt17.en-fr --raw r"),
    ("prepare_wmt14.sh", ["d", "--raw", "r"], "prepare wmt14.en-de --out d --raw r"),
    (
        "prepare_multi30k.sh",
        ["--vocab-size", "9"],
        f"prepare multi30k {' '.join(MULTI30K)} --out data-bin/multi30k.de-en --vocab-size 9",
    ),
]
DISTIL = ["--raw", "r", "--source-lang", "de", "--target-lang", "en", "--teacher-folder", "t", "--family", "opus-mt"]


@pytest.fixture
def clone(tmp_path):
    """A copy of scripts/ and configs/ without .venv, in a folder whose name has a space."""
    folder = tmp_path / "a clone"
    for name in ("scripts", "configs"):
        shutil.copytree(ROOT / name, folder / name)
    return folder


def stub(path: Path) -> None:
    """A command that prints its path and its words, and ends with status 3."""
    path.parent.mkdir(parents=True)
    path.write_text(
        '#!/bin/sh\necho "$0"\nfor word; do case $word in *" "*) word="<$word>";; esac; echo "$word"; done\nexit 3\n'
    )
    path.chmod(0o755)


def run(script: Path, *words: str, path: Path | None = None):
    places = [*([] if path is None else [str(path)]), "/usr/bin", "/bin"]
    environment = {"PATH": os.pathsep.join(places)}
    return subprocess.run([script, *words], capture_output=True, text=True, env=environment, cwd=script.parent.parent)


def test_every_script_is_run_here():
    elsewhere = {"distil_pretrained.sh"}  # tests/integration/test_distil_pretrained.py
    assert {script for script, *_ in RUNS} | elsewhere == set(SHELL)
    assert all(os.access(SCRIPTS / name, os.X_OK) for name in SHELL)


@pytest.mark.parametrize(("script", "words", "command"), RUNS, ids=[" ".join([s, *w]) for s, w, _ in RUNS])
def test_a_script_becomes_the_command(script, words, command, clone, tmp_path):
    """With its exit status, so also with its signals; the command of the clone is taken before the one on the PATH."""
    stub(tmp_path / "bin" / "fairseq-kd")
    result = run(clone / "scripts" / script, *words, path=tmp_path / "bin")
    assert result.returncode == 3 and result.stderr == ""
    assert result.stdout.splitlines() == [str(tmp_path / "bin" / "fairseq-kd"), *re.findall(r"<.*?>|\S+", command)]
    stub(clone / ".venv" / "bin" / "fairseq-kd")
    own = run(clone / "scripts" / script, *words, path=tmp_path / "bin").stdout.splitlines()
    assert own[0] == str(clone / ".venv" / "bin" / "fairseq-kd") and own[1:] == result.stdout.splitlines()[1:]


@pytest.mark.parametrize("script", SHELL)
def test_help_needs_nothing_installed_and_a_missing_command_is_one_line(script, clone):
    script = clone / "scripts" / script
    for words in (["--help"], ["word", "-h"]):
        result = run(script, *words)
        assert result.returncode == 0 and result.stderr == ""
        assert f"Usage: scripts/{script.name} [" in result.stdout and "shellcheck" not in result.stdout
    result = run(script, "--dry-run")
    assert result.returncode == 2 and result.stdout == ""
    assert (
        result.stderr.count("\n") == 1 and "run `make quickstart` in" in result.stderr and str(clone) in result.stderr
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--raw is missing: see"),
        (["--raw"], "--raw has no value, or is no option: see"),
        (["--rawe", "x"], "--rawe is no option: see"),
        (["--raw", "r", "--source-lang", "de", "--target-lang", "en", "--teacher-folder", "t"], "--family is missing"),
        ([*DISTIL, "--max-update", "15"], "--max-update 15: must be a multiple of 10"),
        (DISTIL, "fairseq-train is not installed beside"),
    ],
)
def test_the_script_about_pretrained_teachers_refuses_bad_words_before_it_begins(words, message, clone, tmp_path):
    stub(tmp_path / "bin" / "fairseq-kd")
    (tmp_path / "bin" / "sacrebleu").symlink_to("fairseq-kd")
    result = run(clone / "scripts" / "distil_pretrained.sh", *words, path=tmp_path / "bin")
    assert result.returncode == 2 and result.stdout == "" and result.stderr.count("\n") == 1
    assert message in result.stderr and not (clone / "runs").exists()


def test_the_script_about_pretrained_teachers_refuses_other_words_for_the_same_folder(clone, tmp_path):
    stub(tmp_path / "bin" / "fairseq-kd")
    for name in ("fairseq-train", "sacrebleu"):
        (tmp_path / "bin" / name).symlink_to("fairseq-kd")
    script = clone / "scripts" / "distil_pretrained.sh"
    words = [*DISTIL, "--text", "a b.txt"]
    assert run(script, *words, path=tmp_path / "bin").returncode == 3  # of the stub
    assert run(script, *words, "--cpu", path=tmp_path / "bin").returncode == 3  # computes the same
    for other in (DISTIL, [*words, "--", "--seed", "2"], [*words, "--parameters", "4M"]):
        result = run(script, *other, path=tmp_path / "bin")
        assert result.returncode == 2 and result.stderr.count("\n") == 1
        assert "runs/distil-pretrained was made with other options (" in result.stderr


def test_the_names_in_the_scripts_are_shipped():
    studies = {command.split()[2] for _, _, command in RUNS if command.startswith("study")}
    assert studies <= set(shipped_specs()) and "greedy" in shipped_specs("searches")
    assert {"synthetic", "multi30k", "iwslt14.de-en"} <= set(available_recipes())


def test_a_dry_run_by_the_words_of_a_script(clone, tmp_path, monkeypatch, capsys):
    """The study is planned, Snakemake says what it would do, and no stage is run."""
    stub(tmp_path / "bin" / "fairseq-kd")
    words = run(clone / "scripts" / "sweep_capacity.sh", "--dry-run", path=tmp_path / "bin").stdout.splitlines()[1:]
    monkeypatch.chdir(tmp_path)
    assert main(words) == 0
    assert "This was a dry-run" in capsys.readouterr().out
    assert not (tmp_path / "runs" / "capacity-synthetic" / "stages").exists()


def test_a_run_ends_with_the_report_and_its_path_also_if_stages_have_failed(tmp_path, monkeypatch, capsys):
    from fairseq_kd.study import run as runs

    plan, work = plan_of(tmp_path), tmp_path / "work"
    words = ["study", "run", str(plan.spec.path), "--out", str(work), "--with-report"]
    assert main([*words, "--dry-run"]) == 2 and "--with-report has no effect with --dry-run" in capsys.readouterr().err
    assert (
        main(["study", "plan", *words[2:]]) == 2
        and "--with-report: no effect with study plan" in capsys.readouterr().err
    )
    assert not work.exists()
    work.mkdir()
    write_record(work / "plan.json", plan.as_dict())
    finish_study(plan, work, rich=False)
    monkeypatch.setattr(runs, "run_study", lambda *arguments: runs.FAILURE)
    assert main(words) == runs.FAILURE
    assert (work / "report.html").is_file()
    assert f"wrote {work / 'report.html'}, {work / 'report.md'}" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing():
    words = ["shellcheck", "-x", *map(str, sorted(SCRIPTS.glob("*.sh")))]
    result = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stdout


PYTHON = sorted(path.name for path in SCRIPTS.glob("*.py"))


@pytest.mark.parametrize("script", PYTHON)
def test_python_scripts_answer_help(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(SCRIPTS / script), run_name="__main__")
    assert not end.value.code and capsys.readouterr().out.startswith("usage: ")


def test_a_python_script_without_the_package_says_what_to_do_first(tmp_path):
    for script in ("inject_noise.py", "plot_capacity.py"):
        words = [sys.executable, "-S", "-E", SCRIPTS / script, "--help"]  # -S: without installed packages
        result = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
        assert result.returncode == 2 and result.stderr.startswith(
            "No module named 'fairseq_kd': run `make quickstart`"
        )
        assert result.stderr.count("\n") == 1
