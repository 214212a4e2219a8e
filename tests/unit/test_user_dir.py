"""`fairseq-kd ... --user-dir`: teachers with an architecture of their own."""

import os
import shutil
import sys
from argparse import Namespace

import pytest
import torch
from conftest import PACKAGE, TINY_MODEL, run_fairseq
from process_helpers import run_kd, run_python

from fairseq_kd.cli.main import main

OWN = """
from fairseq.models import register_model_architecture

@register_model_architecture("transformer", "{arch}")
def defaults(args):
    pass
"""
COMMANDS = (
    "cache",
    "verify-cache",
    "decode",
    "evaluate",
    "select-teacher",
    "init-student",
    "compact",
    "split",
    "export",
    "count",
)


@pytest.fixture
def own_path(monkeypatch):
    """fairseq adds the parents of user-dirs to the path."""
    monkeypatch.setattr(sys, "path", list(sys.path))


def of_arch(teacher, path, arch: str):
    """The teacher's checkpoint as one of another architecture."""
    state = torch.load(teacher)
    options = state["cfg"]["model"]
    options = vars(options) if isinstance(options, Namespace) else options
    options |= {"arch": arch, "_name": arch}
    torch.save(state, path)
    return str(path)


def write_folder(folder, code: str) -> str:
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(code)
    return str(folder)


def test_several_folders_are_imported_before_the_checkpoints_are_opened(teacher, data_bin, tmp_path, own_path, capsys):
    one, two = (of_arch(teacher, tmp_path / f"{n}.pt", f"kd_test_own_{n}") for n in (1, 2))
    words = ["decode", str(data_bin), "--teacher", f"{one}:{two}", "--out", str(tmp_path / "out"), "--cpu"]
    words += ["--subset", "valid", "--strategy", "greedy", "--max-len-b", "5"]
    assert main(words) == 2 and "kd_test_own_1, which neither" in capsys.readouterr().err
    folders = [write_folder(tmp_path / f"kd_test_dir_{n}", OWN.format(arch=f"kd_test_own_{n}")) for n in (1, 2)]
    assert main([*words, "--user-dir", *folders]) == 0
    assert (tmp_path / "out" / "manifest.json").is_file()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (None, "is not there"),
        ("raise ValueError('two\\nlines')", "cannot be imported (ValueError: two lines)"),
        ("import kd_test_no_such_module", "cannot be imported (ModuleNotFoundError"),
    ],
)
def test_a_folder_that_cannot_be_imported_is_one_error(code, reason, tmp_path, own_path, capsys):
    folder = tmp_path / f"kd_test_bad_{len(reason)}"
    if code is not None:
        write_folder(folder, code)
    assert main(["compact", "none.pt", "--out", str(tmp_path / "out"), "--user-dir", str(folder)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"fairseq_kd: error: --user-dir {folder} {reason}") and error.count("\n") == 1


def test_folders_of_one_name_are_refused(tmp_path, own_path, capsys):
    folders = [write_folder(tmp_path / parent / "kd_test_twice", "") for parent in ("a", "b")]
    assert main(["compact", "none.pt", "--out", str(tmp_path / "out"), "--user-dir", *folders]) == 2
    assert "not globally unique" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_opens_a_checkpoint_takes_it(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert "--user-dir DIR [DIR ...]" in " ".join(capsys.readouterr().out.split())


def test_a_spec_may_name_folders_by_paths_of_its_own(tmp_path, monkeypatch):
    from fairseq_kd.study.key import with_files

    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "mine", "A = 1")
    options, hashes = with_files("spec", {"user-dir": "mine"}, {})
    assert options == {"user-dir": [str(tmp_path / "mine")]}
    (tmp_path / "mine" / "__pycache__").mkdir()
    (tmp_path / "mine" / "__pycache__" / "x.pyc").write_bytes(b"")
    assert with_files("spec", {"user-dir": ["mine"]}, {}) == (options, hashes)
    (tmp_path / "mine" / "__init__.py").write_text("A = 2")
    assert with_files("spec", {"user-dir": "mine"}, {})[1] != hashes


TWICE = """
import sys
from argparse import Namespace
import fairseq_kd
from fairseq.utils import import_user_module
from fairseq.registry import REGISTRIES
import_user_module(Namespace(user_dir=sys.argv[1]))
print(REGISTRIES["criterion"]["registry"]["kd_word"].__module__, fairseq_kd.__path__[0])
"""


@pytest.mark.parametrize("installed", ["editable", "plain", "link"])
def test_the_printed_folder_is_that_of_the_installed_package_and_is_registered_once(installed, tmp_path):
    """editable: the package of the clone. plain: a copy on the path. link: such a copy, imported through a link."""
    place = PACKAGE.parent
    if installed != "editable":
        place = tmp_path / "site-packages"
        shutil.copytree(PACKAGE, place / "fairseq_kd", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(PACKAGE.parent / "configs", place / "fairseq_kd" / "configs")
    on_path = place
    if installed == "link":
        on_path = tmp_path / "link"
        on_path.symlink_to(place)
    (here := tmp_path / "elsewhere").mkdir()
    options = {"cwd": here, "env": os.environ | {"PYTHONPATH": str(on_path)}}
    printed = run_kd("user-dir", **options)
    assert (printed.returncode, printed.stdout, printed.stderr) == (0, f"{place / 'fairseq_kd'}\n", "")
    configs = run_kd("user-dir", "--configs", **options).stdout.strip()
    assert configs == str(place / "configs" if installed == "editable" else place / "fairseq_kd" / "configs")
    result = run_python("-c", TWICE, printed.stdout.strip(), **options)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.split() == ["fairseq_kd.criterions.kd_word", str(on_path / "fairseq_kd")]


def test_a_command_takes_the_printed_folder_as_an_option(tmp_path, capsys):
    """The plugin is registered already; the command goes on to its own check."""
    assert main(["compact", "none.pt", "--out", str(tmp_path / "out"), "--user-dir", str(PACKAGE)]) == 2
    assert "none.pt" in capsys.readouterr().err


def test_fairseq_train_with_a_folder_that_imports_the_plugin(teacher, data_bin, tmp_path):
    """It takes one folder, so the teacher's folder brings the plugin."""
    folder = write_folder(tmp_path / "kd_test_with_plugin", f"import fairseq_kd\n{OWN.format(arch='kd_test_own_3')}")
    own = of_arch(teacher, tmp_path / "own.pt", "kd_test_own_3")
    words = ["--criterion", "kd_word", "--teacher", own, "--max-update", "1", "--save-dir", tmp_path / "student"]
    result = run_fairseq("train", data_bin, *TINY_MODEL, *words, user_dir=folder)
    assert result.returncode == 0, result.stderr[-2000:]
    assert (tmp_path / "student" / "checkpoint_last.pt").is_file()
