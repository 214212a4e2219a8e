import argparse
import errno
import importlib
import logging
import os
import re
import subprocess
import sys
import warnings
from importlib import metadata

import pytest
from conftest import PACKAGE, ROOT
from docs_helpers import all_blocks

from fairseq_kd.cli.main import main
from fairseq_kd.core.commands import COMMANDS
from fairseq_kd.version import __version__


def options_on_pages() -> dict[str, set[str]]:
    """The options of each command that the command blocks of README.md and docs/ use."""
    found = {command: set() for command in COMMANDS}
    for line in (line for block in all_blocks() if block.language == "bash" for line in block.commands()):
        if match := re.fullmatch(r"fairseq-kd ([a-z]\S+)(.*)", line):
            found[match[1]] |= set(re.findall(r"(?<=\s)--[a-z][a-z0-9-]*", match[2]))
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys, monkeypatch):
    """Each of its options, and every one that the pages give it."""
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    explained = capsys.readouterr().out
    assert f"usage: fairseq-kd {command} " in explained
    parser = argparse.ArgumentParser()
    importlib.import_module(f"fairseq_kd.cli.{command.replace('-', '_')}").add_arguments(parser)
    assert [action.option_strings for action in parser._actions if action.option_strings and not action.help] == []
    if parser.get_default("passed_on") is None:  # else some belong to fairseq or Snakemake
        assert options_on_pages()[command] <= set(re.findall(r"--[a-z][a-z0-9-]*", explained))


def test_help_does_not_import_fairseq_or_torch():
    words = [sys.executable, "-X", "importtime", "-m", "fairseq_kd.cli.main", "--help"]
    result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert "quickstart" in result.stdout
    imported = {line.split("|")[-1].strip() for line in result.stderr.splitlines()}
    assert "fairseq_kd.cli.main" in imported or "fairseq_kd.cli" in imported
    assert not imported & {"fairseq", "torch"}


def test_importing_any_part_registers_the_criterion():
    code = """
import fairseq_kd.core.errors
from fairseq.registry import REGISTRIES
print("kd_word" in REGISTRIES["criterion"]["registry"])
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.strip().endswith("True"), result.stderr


@pytest.mark.parametrize("glued", [False, True])
def test_a_package_that_imports_the_plugin_registers_it_also_with_dash_m(glued, tmp_path):
    package = tmp_path / "mine"
    package.mkdir()
    (package / "__init__.py").write_text("import fairseq_kd")
    (package / "__main__.py").write_text(
        "from fairseq.registry import REGISTRIES; print('kd_word' in REGISTRIES['criterion']['registry'])"
    )
    words = ["-mmine"] if glued else ["-m", "mine"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, tmp_path)))}
    result = subprocess.run(
        [sys.executable, *words, "fairseq_kd.cli.main"], env=environment, capture_output=True, text=True
    )
    assert result.stdout.strip() == "True", result.stderr


def extras_of_setup(monkeypatch) -> dict[str, set[str]]:
    """Distribution names by extra, "" for those that are always installed, as setup.py gives them to setuptools."""
    import runpy

    import setuptools

    given = {}
    monkeypatch.setattr(setuptools, "setup", given.update)
    runpy.run_path(str(ROOT / "setup.py"))
    lists = {"": given["install_requires"], **given["extras_require"]}
    return {extra: {re.split(r"[^\w-]", line)[0] for line in lines} for extra, lines in lists.items()}


def test_doctor_and_errors_name_the_extras_of_setup(monkeypatch):
    from fairseq_kd.cli.doctor import OPTIONAL, REQUIRED

    extras = extras_of_setup(monkeypatch)
    for line in metadata.requires("sacrebleu"):  # sacrebleu[ja] is in ours
        if extra := re.search(r"""extra == ['"](ja|ko)['"]""", line):
            extras[extra.group(1)].add(re.split(r"[^\w-]", line)[0])
    assert {name: extra for name, extra, _ in OPTIONAL.values() if name not in extras[extra]} == {}
    assert {*REQUIRED.values()} - {"omegaconf"} == extras[""] - {"torch"}  # fairseq requires omegaconf
    named = {
        extra
        for path in [*PACKAGE.rglob("*.py"), ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
        for found in re.findall(r"(?:fairseq_kd|\.)\[([a-z,]+)\]'", path.read_text(encoding="utf-8"))
        for extra in found.split(",")
    }
    assert {"fast", "search"} <= named <= extras.keys()
    assert {extra for _, extra, _ in OPTIONAL.values()} == extras.keys() - {"", "fairseq", "test", "docs"}
    rows = re.findall(r"^\| (`[a-z`, ]+) \|", (ROOT / "docs" / "install.md").read_text(encoding="utf-8"), re.M)
    assert set(re.findall("[a-z]+", " ".join(rows))) == extras.keys() - {""}


def test_doctor_reports_versions_and_finds_nothing_missing(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert f"fairseq_kd    {__version__}    --user-dir {PACKAGE}" in out
    for name in ("Python", "torch", "fairseq", "sacrebleu", "sentencepiece"):
        assert f"\n{name}" in out
    assert "nothing that is needed is missing" in out


def test_doctor_says_what_to_do_about_a_missing_package(capsys, monkeypatch):
    import importlib.util

    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sacrebleu" else find_spec(name))
    assert main(["doctor"]) == 1
    assert "problem: sacrebleu is missing: pip install" in capsys.readouterr().out


def test_main_leaves_logging_and_warnings_of_its_caller_as_they_were(monkeypatch, capsys):
    loggers = [logging.getLogger(), logging.getLogger("fairseq"), logging.getLogger("hydra")]
    for logger in loggers:
        monkeypatch.setattr(logger, "level", logging.INFO)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    filters = warnings.filters[:]
    assert main(["doctor"]) == 0
    assert [logger.level for logger in loggers] == [logging.INFO] * 3
    assert logging.getLogger().handlers == [] and warnings.filters == filters


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
