"""Commands that are killed, and commands whose inputs are replaced while they run.

A command that is killed at any moment and given again makes the same files as one that ran through. An input that is
replaced while a command reads it never gives a result that mixes two files.
"""

import shutil
import signal

import pytest
from faults_helpers import ALL, COMMANDS, assert_one_error, command, content, unpack

MOMENTS = [number / 13 for number in range(14)]  # as a share of all events of a command, from the first to the last
SECONDS = (0.05, 0.2, 0.5)
KILLS = [(name, moment) for name in COMMANDS for moment in MOMENTS]
KILLS_BY_TIME = [(name, seconds) for name in COMMANDS for seconds in SECONDS]
if not ALL:
    KILLS = [
        ("mix", 0.5),
        ("noise-text", 0.9),
        ("cache", 0.6),
        ("cache-mixture", 0.7),
        ("split", 0.6),
        ("partition", 0.8),
    ]
    KILLS_BY_TIME = [("noise", 0.1)]


def run_again(server, inputs, here, name, expected):
    """The same command, undisturbed: the same files, and nothing that the killed run left."""
    answer = server.run(command(name, inputs, here), here)
    assert answer.status == 0, answer.text
    found = content(here)
    assert sorted(found) == sorted(expected)
    assert [file for file in expected if found[file] != expected[file]] == []


@pytest.mark.parametrize(("name", "moment"), KILLS)
def test_a_command_that_was_killed_at_an_event_gives_the_same(
    server, fault_inputs, undisturbed, tmp_path, name, moment
):
    expected, events = undisturbed(name)
    here = tmp_path / "here"
    here.mkdir()
    kill_at = 1 + round(moment * (events - 1))
    answer = server.run(command(name, fault_inputs, here), here, kill_at=kill_at)
    assert answer.status == -signal.SIGKILL, answer
    if name == "split":  # its folder is complete or absent
        assert (here / "out" / "manifest.json").exists() or not (here / "out").exists()
    run_again(server, fault_inputs, here, name, expected)


@pytest.mark.parametrize(("name", "seconds"), KILLS_BY_TIME)
def test_a_command_that_was_killed_after_some_time_gives_the_same(
    server, fault_inputs, undisturbed, tmp_path, name, seconds
):
    expected, _ = undisturbed(name)
    here = tmp_path / "here"
    here.mkdir()
    answer = server.run(command(name, fault_inputs, here), here, kill_after=seconds)
    assert answer.status in (0, -signal.SIGKILL), answer
    run_again(server, fault_inputs, here, name, expected)


SIDE = "data-bin/train.qaa-qab.qab.bin"
SWAPS = [  # (command, file)
    *((name, "teacher.pt") for name in ("cache", "decode")),
    *((name, SIDE) for name in ("cache", "decode", "mix", "noise", "partition")),
    ("noise-text", "raw/train.qaa"),
    ("prepare", "raw/train.qaa"),
    ("select-teacher", "checkpoints/checkpoint1.pt"),
    ("select-teacher", "data-bin/valid.qaa-qab.qab.bin"),
]
LATE = (0.3, 0.6, 0.9)  # as a share of the events between the first reading and the end
CASES = [(*swap, moment) for swap in SWAPS for moment in (0, *LATE)]
if not ALL:
    CASES = [("cache", "teacher.pt", 0), ("noise-text", "raw/train.qaa", 0.3), ("mix", SIDE, 0.6)]


def another(path, to) -> None:
    """A file of the same kind with other content: of another checkpoint, or of other sentences of the same lengths."""
    if path.suffix == ".pt":
        shutil.copyfile(next(p for p in path.parent.glob("**/*.pt") if p.read_bytes() != path.read_bytes()), to)
    elif path.suffix == ".bin":
        found = bytearray(path.read_bytes())
        first, second = found[:2], found[2:4]
        found[:4] = second + first if first != second else bytes((first[0] ^ 1, first[1])) + second
        to.write_bytes(found)
    else:
        lines = path.read_text().splitlines(keepends=True)
        to.write_text("".join(lines[1:] + lines[:1]))


@pytest.mark.parametrize(("name", "file", "moment"), CASES)
def test_a_replaced_input_is_refused_or_without_effect(server, undisturbed, tmp_path, name, file, moment):
    here = tmp_path / "here"
    inputs = unpack(here / "inputs")
    (here / "whole").mkdir(), (here / "swapped").mkdir()
    words = command(name, inputs, here / "whole")
    undisturbed_here = server.run(words, here, read=str(inputs / file))
    assert undisturbed_here.status == 0 and undisturbed_here.read_at is not None, undisturbed_here.text
    another(inputs / file, here / "other")
    swap = {"file": str(inputs / file), "by": str(here / "other")}
    if moment:
        read_at, events = undisturbed_here.read_at, undisturbed_here.events
        swap["at"] = read_at + round(moment * (events - read_at))
    answer = server.run(command(name, inputs, here / "swapped"), here, swap=swap)
    if answer.status == 0:  # all of the file was read before the swap, or all of it after
        if content(here / "swapped") != content(here / "whole"):
            (here / "after").mkdir()
            assert server.run(command(name, inputs, here / "after"), here).status == 0
            assert content(here / "swapped") == content(here / "after")
    else:
        assert_one_error(answer, file.rpartition("/")[2])
        assert not list((here / "swapped").glob("out*/manifest.json"))
