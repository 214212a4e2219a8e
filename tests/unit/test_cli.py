import errno
import os
import subprocess
import sys

import pytest
from conftest import PACKAGE, ROOT

from fairseq_kd.cli.main import COMMANDS, main
from fairseq_kd.version import __version__


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert COMMANDS[command].split()[0] in capsys.readouterr().out.lower()


def test_help_does_not_import_fairseq_or_torch():
    words = [sys.executable, "-X", "importtime", "-m", "fairseq_kd.cli.main", "--help"]
    result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert "quickstart" in result.stdout
    imported = {line.split("|")[-1].strip() for line in result.stderr.splitlines()}
    assert "fairseq_kd.cli.main" in imported or "fairseq_kd.cli" in imported
    assert not imported & {"fairseq", "torch"}


def test_importing_any_part_registers_the_criterion():
    code = """
import fairseq_kd.errors
from fairseq.registry import REGISTRIES
print("kd_word" in REGISTRIES["criterion"]["registry"])
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.strip().endswith("True"), result.stderr


def test_doctor_reports_versions_and_finds_nothing_missing(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert f"fairseq_kd    {__version__}    --user-dir {PACKAGE}" in out
    for name in ("Python", "torch", "fairseq", "sacrebleu", "sentencepiece"):
        assert f"\n{name}" in out
    assert "everything that is needed is there" in out


def test_doctor_says_what_to_do_about_a_missing_package(capsys, monkeypatch):
    import importlib.util

    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sacrebleu" else find_spec(name))
    assert main(["doctor"]) == 1
    assert "problem: sacrebleu is missing: pip install" in capsys.readouterr().out


def test_a_command_that_is_interrupted_says_how_to_continue(monkeypatch, capsys):
    import fairseq_kd.cli.doctor

    def interrupt(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(fairseq_kd.cli.doctor, "run", interrupt)
    assert main(["doctor"]) == 130
    assert "give the same command again" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "advice"), [(errno.EACCES, "owner or mode"), (errno.ENOSPC, "make room")])
def test_what_the_system_refuses_is_one_clear_error(number, advice, monkeypatch, capsys):
    def refuse(args):
        raise OSError(number, os.strerror(number), "some/file")

    monkeypatch.setattr("fairseq_kd.cli.doctor.run", refuse)
    assert main(["doctor"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("fairseq_kd: error: some/file: ") and advice in error and error.count("\n") == 1


def test_an_error_that_nobody_expected_keeps_its_traceback(monkeypatch):
    def fail(args):
        raise OSError(errno.EIO, "Input/output error", "some/file")

    monkeypatch.setattr("fairseq_kd.cli.doctor.run", fail)
    with pytest.raises(OSError, match="some/file"):
        main(["doctor"])
