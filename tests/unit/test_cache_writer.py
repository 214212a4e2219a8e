import errno
import fcntl
import json
import multiprocessing
import os
import random
import signal
from functools import partial

import numpy as np
import pytest
import torch
from cache_helpers import BLOCK_TOKENS, FORMAT, SIZES, content, fitted, generated, write

from fairseq_kd.artifacts.blocks import cut_blocks
from fairseq_kd.artifacts.folders import folder_in_progress
from fairseq_kd.artifacts.locks import exclusive
from fairseq_kd.cache.reader import CacheReader
from fairseq_kd.core.errors import KDError


def in_a_process_that_may_be_killed(function, kill_after=None) -> int:
    """Run `function` in a fork; SIGKILL it after the given seconds. Returns the exit code."""
    process = multiprocessing.get_context("fork").Process(target=function)
    process.start()
    process.join(kill_after if kill_after is not None else 30)
    if process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
        process.join(30)
    return process.exitcode


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "cache"
    write(folder)
    return content(folder)


def test_blocks_hold_every_sentence_once_and_only_neighbours():
    blocks = cut_blocks(np.array([3, 3, 3, 30, 1, 1]), block_size=6)
    # offsets 0 3 6 9 39 40: sentences 0 and 1 begin in [0, 6), 2 and 3 in [6, 12), 4 and 5 in [36, 42)
    assert [(block.start, block.end, block.size) for block in blocks] == [(0, 2, 6), (2, 4, 33), (4, 6, 2)]


def test_what_is_read_is_what_was_computed(whole, tmp_path):
    write(tmp_path / "cache")
    reader = CacheReader(tmp_path / "cache")
    sentences = np.array([41, 0, 41, 7])
    rows = reader.rows(reader.sentence_rows(sentences))
    expected = [(sentence, position) for sentence in sentences for position in range(SIZES[sentence])]
    assert [tuple(row) for row in rows.delta[:, [2, 1]].astype(int)] == expected
    assert rows.shape_ids[:, 0].tolist() == [position % 4 for _, position in expected]
    assert torch.equal(reader.tail_shapes(2.0), torch.from_numpy(fitted()[1]))
    assert reader.crc[41].tolist() == [41, 42]
    assert rows.gold[:, 0] == pytest.approx([-sentence - position / 100 for sentence, position in expected])


def test_the_manifest_holds_counts_and_the_mean_mass_of_the_tails(tmp_path):
    manifest = write(tmp_path / "cache")
    assert (manifest["sentences"], manifest["tokens"]) == (60, SIZES.sum())
    assert manifest["mean_tail_mass"][1] == pytest.approx(0.1353353, abs=1e-6)  # e^-2, everywhere
    assert not [name for name in manifest if "time" in name or "seconds" in name]


def write_and_die(folder, renames: int, after: bool) -> None:
    """Write, and SIGKILL this process before or after its rename (or link) of this number, the first being 1."""
    done = []

    def killing(function):
        def killed(*arguments):
            done.append(arguments)
            if len(done) == renames and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            function(*arguments)
            if len(done) == renames and after:
                os.kill(os.getpid(), signal.SIGKILL)

        return killed

    os.replace, os.link = killing(os.replace), killing(os.link)
    write(folder)


@pytest.mark.parametrize("after", [False, True])
def test_killed_before_or_after_any_rename_it_goes_on_to_the_same_bytes(whole, tmp_path, after):
    # the record, the tail shapes, the blocks, the arrays, the manifest
    renames = 1 + 1 + len(cut_blocks(SIZES, BLOCK_TOKENS)) + 8 + 1
    for number in range(1, renames + 2):
        folder = tmp_path / str(number)
        code = in_a_process_that_may_be_killed(partial(write_and_die, folder, number, after))
        assert code == (-signal.SIGKILL if number <= renames else 0)
        assert write(folder) and content(folder) == whole, number


def test_killed_at_random_moments_it_goes_on_to_the_same_bytes(whole, tmp_path):
    moments, folder = random.Random(1), tmp_path / "cache"
    codes = [in_a_process_that_may_be_killed(lambda: write(folder), moments.uniform(0, 0.02)) for _ in range(40)]
    assert -signal.SIGKILL in codes
    assert write(folder) and content(folder) == whole


def test_shards_in_any_order_make_the_same_bytes(whole, tmp_path):
    folder = tmp_path / "cache"
    assert write(folder, shard=(2, 3)) is None
    assert write(folder, shard=(0, 3)) is None
    assert write(folder, shard=(1, 3))["sentences"] == 60
    assert content(folder) == whole


def test_shards_at_the_same_time_make_the_same_bytes(whole, tmp_path):
    for attempt in range(5):
        folder = tmp_path / str(attempt)
        context = multiprocessing.get_context("fork")
        processes = [context.Process(target=write, args=(folder, generated, (i, 4))) for i in range(4)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(30)
        assert [process.exitcode for process in processes] == [0] * 4
        assert content(folder) == whole


def shapes_of_this_process():
    return np.full(FORMAT.shapes_size(), -1 - os.getpid() % 999, dtype=np.float32)


@pytest.mark.parametrize("links", [True, False])
def test_the_first_tail_shapes_hold_for_all_processes(tmp_path, links, monkeypatch):
    def refuse(*arguments):
        raise PermissionError(1, "no hard links here")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    write(tmp_path / "cache", shard=(0, 2))
    write(tmp_path / "cache", shard=(1, 2), fit=shapes_of_this_process)
    assert np.array_equal(CacheReader(tmp_path / "cache").shapes, fitted())
    context = multiprocessing.get_context("fork")
    for attempt in range(5):
        folder = tmp_path / str(attempt)
        shards = [(folder, generated, (i, 4), shapes_of_this_process) for i in range(4)]
        processes = [context.Process(target=write, args=shard) for shard in shards]
        for process in processes:
            process.start()
        for process in processes:
            process.join(30)
        reader = CacheReader(folder)
        first = reader.shapes[0, 0, 0]
        assert (reader.shapes == first).all()
        assert (reader.rows(np.arange(SIZES.sum())).tail[:, 0] == np.float16(first)).all()


def test_tail_shapes_of_another_process_hold_where_there_are_no_hard_links(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise PermissionError(1, "no hard links here")

    def fit():  # while this process fits, another one has finished fitting
        write(tmp_path / "cache", shard=(0, 2), fit=fitted)
        return shapes_of_this_process()

    monkeypatch.setattr(os, "link", refuse)
    write(tmp_path / "cache", shard=(1, 2), fit=fit)
    assert np.array_equal(CacheReader(tmp_path / "cache").shapes, fitted())


def request_of(teacher: str) -> dict:
    return {"kind": "fairseq_kd teacher cache", "format": 1, "teacher": {"sha256": teacher, "path": f"/{teacher}"}}


def test_a_request_recorded_between_check_and_write_is_not_overwritten(tmp_path, monkeypatch):
    from fairseq_kd.artifacts import request

    folder, look, begun = tmp_path / "cache", request._visible, []

    def look_then_lose_the_race(place):
        found = look(place)
        if place == folder and not begun:
            begun.append(place)
            request.begin(folder, request_of("aaa"))
        return found

    monkeypatch.setattr(request, "_visible", look_then_lose_the_race)
    with pytest.raises(KDError, match="was made with a teacher with sha256 aaa, this command has bbb"):
        request.begin(folder, request_of("bbb"))
    assert request.begin(folder, request_of("aaa"))["teacher"]["sha256"] == "aaa"
    assert [path.name for path in (folder / "parts").iterdir()] == ["manifest.json"]


def begin_often(folder, teachers, barrier, answers, links) -> None:
    """Begin the same folders as another process, at the same time; put (number, who, what holds) into `answers`."""
    from fairseq_kd.artifacts.request import begin

    if not links:
        os.link = lambda *arguments: (_ for _ in ()).throw(PermissionError(1, "no hard links here"))
    for number, teacher in enumerate(teachers):
        barrier.wait(30)
        try:
            held = begin(folder / str(number), request_of(teacher))["teacher"]["sha256"]
        except KDError as error:
            held = None if "was made with" in str(error) else str(error)
        answers.put((number, teacher, held))


@pytest.mark.parametrize("links", [True, False])
def test_of_two_shards_begun_together_with_different_teachers_one_is_refused(tmp_path, links):
    context, tries = multiprocessing.get_context("fork"), 40
    barrier, answers = context.Barrier(2), context.SimpleQueue()
    teachers = [["aaa"] * tries, ["aaa" if number % 4 == 0 else "bbb" for number in range(tries)]]
    processes = [context.Process(target=begin_often, args=(tmp_path, t, barrier, answers, links)) for t in teachers]
    for process in processes:
        process.start()
    found = [answers.get() for _ in range(2 * tries)]
    for process in processes:
        process.join(30)
    for number in range(tries):
        asked, held = zip(*sorted((who, what) for n, who, what in found if n == number), strict=True)
        begun = json.loads((tmp_path / str(number) / "parts" / "manifest.json").read_text())["teacher"]["sha256"]
        # with the same teacher both continue; with two teachers only the process whose request is recorded
        assert held == tuple(begun if who == begun else None for who in asked), number


def killed_with(hold, path) -> None:
    """A process that is killed while it holds a lock."""

    def hold_and_die():
        with hold(path):
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_a_process_that_may_be_killed(hold_and_die) == -signal.SIGKILL


def test_a_lock_ends_with_its_process_however_that_ends(tmp_path):
    killed_with(exclusive, tmp_path / "out")
    assert (tmp_path / ".out.lock").exists()
    held, message = exclusive(tmp_path / "out"), "another process is working on .*out"
    with held, pytest.raises(KDError, match=message), exclusive(tmp_path / "out"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks_is_one_clear_error(tmp_path, monkeypatch):
    def without(*arguments):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", without)
    message = "cannot lock .*out .Function not implemented.*file system with locks"
    with pytest.raises(KDError, match=message), exclusive(tmp_path / "out"):
        pass


def test_a_folder_that_another_process_has_made_since_the_first_look_is_kept(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").write_text("{}")
    message = "was made by another process meanwhile; run the same command again"
    with pytest.raises(KDError, match=message), folder_in_progress(tmp_path / "out"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_damaged_tail_shapes_are_not_used(tmp_path):
    write(tmp_path / "cache", shard=(0, 2))
    part = tmp_path / "cache" / "parts" / "shapes.bin"
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(KDError, match="shapes.bin was damaged after it was written"):
        write(tmp_path / "cache")


def test_without_shard_what_the_shards_left_is_done_and_nothing_twice(whole, tmp_path):
    folder, computed = tmp_path / "cache", []
    write(folder, shard=(1, 2))

    def noting(start, end, advance, shapes):
        computed.append(start)
        return generated(start, end, advance, shapes)

    assert write(folder, noting)
    blocks = cut_blocks(SIZES, BLOCK_TOKENS)
    assert computed == [block.start for block in blocks[0::2]]
    assert content(folder) == whole
    assert write(folder, noting) and len(computed) == len(blocks[0::2])  # complete: nothing is computed


def test_work_begun_from_something_else_is_refused(tmp_path):
    write(tmp_path / "cache", shard=(0, 2), teacher={"sha256": "aaa", "path": "/a"}, versions={"torch": "2.1"})
    with pytest.raises(KDError, match="was made with a teacher with sha256 aaa, this command has bbb.*remove"):
        write(tmp_path / "cache", teacher={"sha256": "bbb", "path": "/a"}, versions={"torch": "2.1"})
    with pytest.raises(KDError, match=r"versions\.torch 2\.1, this command has 2\.2"):
        write(tmp_path / "cache", teacher={"sha256": "aaa", "path": "/a"}, versions={"torch": "2.2"})
    same = {"sha256": "aaa", "path": "/moved/since"}
    assert write(tmp_path / "cache", teacher=same, versions={"torch": "2.1"})["teacher"]["path"] == "/a"
    assert write(tmp_path / "cache", teacher=same, versions={"torch": "2.2"})  # complete: the version is history


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(KDError, match="already holds 'thesis.tex' and is not a teacher cache"):
        write(tmp_path)
    assert content(tmp_path) == {"thesis.tex": b"x"}
    (tmp_path / "parts").mkdir()
    (tmp_path / "thesis.tex").rename(tmp_path / "parts" / "thesis.tex")
    with pytest.raises(KDError, match="already holds 'parts' and is not a teacher cache"):
        write(tmp_path)
    (tmp_path / "parts" / "thesis.tex").rename(tmp_path / "manifest.json")
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 1}))
    with pytest.raises(KDError, match="is not a teacher cache"):
        write(tmp_path)


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(KDError, match="cannot write to .*--out"):
        write(tmp_path / "file" / "cache")


def test_a_full_disk_is_one_clear_error_and_keeps_what_is_finished(whole, tmp_path, monkeypatch):
    calls = []

    def full(handle):
        calls.append(handle)
        if len(calls) == 5:  # after the request, the tail shapes and two blocks
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KDError, match="No space left on device.*run the same command again"):
        write(tmp_path / "cache")
    assert len(list((tmp_path / "cache" / "parts").glob("[0s]*.bin"))) == 3  # the tail shapes and two blocks
    assert write(tmp_path / "cache") and content(tmp_path / "cache") == whole


def test_a_damaged_part_is_not_joined(tmp_path):
    write(tmp_path / "cache", shard=(0, 2))
    part = tmp_path / "cache" / "parts" / "000000.bin"
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(KDError, match="000000.bin was damaged"):
        write(tmp_path / "cache")


def test_an_unfinished_cache_is_not_read(tmp_path):
    write(tmp_path / "cache", shard=(0, 2))
    with pytest.raises(KDError, match="is not complete: run the same fairseq-kd cache command again"):
        CacheReader(tmp_path / "cache")
