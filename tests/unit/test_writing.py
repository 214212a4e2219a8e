"""Files and folders appear whole or not at all, and what killed processes leave is removed by the next."""

import contextlib
import errno
import fcntl
import os
import resource
import shutil
import signal
from pathlib import Path

import pytest

from fairseq_kd.artifacts.folders import (
    files_finished,
    files_in_progress,
    finished,
    folder_in_progress,
    remove_leftovers,
)
from fairseq_kd.artifacts.locks import exclusive, is_held
from fairseq_kd.artifacts.manifest import hash_files
from fairseq_kd.artifacts.request import check_same
from fairseq_kd.artifacts.writing import (
    CannotWrite,
    create_file,
    ensure_writable_folder,
    file_in_progress,
    write_json,
    write_text,
)
from fairseq_kd.core.errors import KDError

REQUEST = {"kind": "fairseq_kd thing", "options": {"rate": 0.1}}


@contextlib.contextmanager
def largest_file(size: int):
    """Let the system refuse files above `size` bytes, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def umask(mask: int):
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def killed_while(function) -> None:
    """Run `function` in a child, which must end by SIGKILL."""
    if (child := os.fork()) == 0:
        function()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path):
    write_text(tmp_path / "r.json", "old")
    for write in (write_text, lambda path, text: create_file(path.with_name("new"), [text.encode()])):
        with largest_file(1000), pytest.raises(CannotWrite, match=r"cannot write .*(r\.json|new) \(File too large\)"):
            write(tmp_path / "r.json", "x" * 2000)
    assert names(tmp_path) == ["r.json"] and (tmp_path / "r.json").read_text() == "old"


def test_a_checkpoint_that_finds_no_room_is_one_error_without_leftovers(tmp_path):
    torch = pytest.importorskip("torch")
    from omegaconf import OmegaConf

    from fairseq_kd.inference.checkpoint import write_initial_checkpoint

    state = {"cfg": OmegaConf.create({"model": None})}
    with largest_file(10_000), pytest.raises(KDError, match=r"cannot write .*init\.pt .*make room"):
        write_initial_checkpoint(tmp_path / "init.pt", state, {"weight": torch.zeros(10_000)})
    assert names(tmp_path) == []
    with exclusive(tmp_path / "init.pt"), pytest.raises(KDError, match=r"another process is working on .*init\.pt"):
        write_initial_checkpoint(tmp_path / "init.pt", state, {})


def test_temporary_files_of_killed_processes_go_and_those_of_living_ones_stay(tmp_path):
    killed_while(lambda: write_in_progress(tmp_path / "r.json"))
    assert len(names(tmp_path)) == 1 and names(tmp_path)[0].startswith(".r.json.")
    (tmp_path / ".r.json.abcd_123").write_text("of an earlier version")
    (tmp_path / ".other.json.abcd1234").write_text("not of this file")
    with file_in_progress(tmp_path / "r.json") as living:
        write_json(tmp_path / "r.json", {})
        assert names(tmp_path) == sorted([".other.json.abcd1234", living.name, "r.json"])
        living.write_text("whole")
    assert names(tmp_path) == [".other.json.abcd1234", "r.json"]
    assert (tmp_path / "r.json").read_text() == "whole"


def write_in_progress(path: Path) -> None:
    with file_in_progress(path):
        die()


def test_probes_of_killed_processes_are_removed(tmp_path):
    (tmp_path / ".writable-abcd1234").write_text("")
    ensure_writable_folder(tmp_path)
    assert names(tmp_path) == []


def test_a_finished_folder_is_kept_without_the_leftovers_of_a_killed_run(tmp_path):
    out = tmp_path / "out"
    killed_while(lambda: fill(out, die))
    assert [name for name in names(tmp_path) if name.startswith(".out.part-")] and ".out.lock" in names(tmp_path)
    fill(out)
    assert names(tmp_path) == ["out"]
    (tmp_path / ".out.part-abcd1234").mkdir()
    (tmp_path / ".out.lock").write_text("")
    assert finished(out, REQUEST)["files"] == hash_files(out)
    assert names(tmp_path) == ["out"]


def test_leftovers_of_a_folder_that_a_process_works_on_stay(tmp_path):
    (tmp_path / ".out.part-abcd1234").mkdir()
    with exclusive(tmp_path / "out"):
        remove_leftovers(tmp_path / "out")
        assert names(tmp_path) == [".out.lock", ".out.part-abcd1234"]


def fill(out: Path, midway=lambda folder: None) -> None:
    with folder_in_progress(out) as folder:
        (folder / "data").write_text("data")
        midway(folder)
        write_json(folder / "manifest.json", REQUEST | {"files": {"data": hash_files(folder)["data"]}})
        if midway is remove_after:
            (folder / "data").unlink()


def remove_after(folder: Path) -> None:
    """The file is removed after the manifest was written."""


@pytest.mark.parametrize("midway", [shutil.rmtree, remove_after])
def test_a_folder_that_vanishes_midway_is_no_result(tmp_path, midway):
    with pytest.raises(KDError, match=r"out(/data)? was (not written: its temporary|removed while)"):
        fill(tmp_path / "out", midway)
    assert names(tmp_path) == []


@pytest.mark.parametrize("vanish", ["folder", "file"])
def test_files_that_vanish_midway_are_never_called_complete(tmp_path, vanish):
    out = tmp_path / "out"
    for _ in range(2):  # the same command again
        assert files_finished(out, REQUEST) is None
        with (
            pytest.raises(KDError, match=r"out\.(\*|de) was (not written|removed from the temporary folder)"),
            files_in_progress(out, REQUEST, ["out.de", "out.en"]) as (folder, _),
        ):
            for name in ("out.de", "out.en"):
                (folder / name).write_text("text\n")
            if vanish == "folder":
                shutil.rmtree(folder)
            else:
                (folder / "out.de").unlink()
        assert names(tmp_path) == []


def test_files_and_folders_follow_the_umask(tmp_path):
    with umask(0o027):
        write_json(tmp_path / "r.json", {})
        create_file(tmp_path / "once", [b""])
        fill(tmp_path / "out")
    with umask(0o002):
        write_json(tmp_path / "shared.json", {})
    modes = {name: oct((tmp_path / name).stat().st_mode & 0o777) for name in names(tmp_path)}
    assert modes == {"once": "0o640", "out": "0o750", "r.json": "0o640", "shared.json": "0o664"}


def test_a_mismatch_names_the_nested_key_the_old_and_the_new_value(tmp_path):
    fill(tmp_path / "out")
    with pytest.raises(KDError, match=r"out was made with options\.rate 0\.1, this command has 0\.2: "):
        finished(tmp_path / "out", REQUEST | {"options": {"rate": 0.2}})
    with pytest.raises(KDError, match=r"was made with options\.rate 0\.1, this command has nothing"):
        finished(tmp_path / "out", REQUEST | {"options": {}})
    with pytest.raises(KDError, match="is not a"):
        finished(tmp_path / "out", REQUEST | {"kind": "fairseq_kd other"})
    alike = "a" * 50
    with pytest.raises(
        KDError, match=r"was made with x \.\.\.a{16}b, this command has \.\.\.a{16}c \(1 more differ\): "
    ):
        check_same("out", {"x": f"{alike}b", "y": 1}, {"x": f"{alike}c", "y": 2})


def test_a_lock_file_that_stays_says_whether_a_process_holds_it(tmp_path):
    assert not is_held(tmp_path / "lock")
    with open(tmp_path / "lock", "w") as lock:
        assert not is_held(tmp_path / "lock")
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert is_held(tmp_path / "lock")


def test_an_error_of_reading_is_not_called_an_error_of_writing(tmp_path):
    with pytest.raises(OSError, match="Input/output error"), file_in_progress(tmp_path / "r.json"):
        raise OSError(errno.EIO, os.strerror(errno.EIO), "input")
    assert names(tmp_path) == []
