import gzip
import json
import os
import random
import runpy
import signal
import sys

import numpy as np
import pytest
from conftest import ROOT

from fairseq_kd.artifacts.manifest import check_files
from fairseq_kd.cli.main import main
from fairseq_kd.core.errors import KDError
from fairseq_kd.noise import text
from fairseq_kd.noise.operations import BLOCK_LINES, NoiseOptions
from fairseq_kd.noise.side import NoisySide
from fairseq_kd.noise.text import noise_and_count, noise_lines, noise_text
from fairseq_kd.noise.text_level import TextLevel

LANGUAGES = {"source": "de", "target": "en"}
MIX = NoiseOptions(delete=0.1, substitute=0.1, swap=0.1)
ODD = ["", " ", "one", "cr lf\r", "e\u0301 \U0001f44d\U0001f3fd tab\tbed", " ".join(map(str, range(5000)))]


def corpus(folder, lines: int):
    """Aligned files IN.de and IN.en; de has the odd lines."""
    rng = random.Random(1)
    text = {
        lang: [" ".join(rng.choices("abcdefgh", k=rng.randint(1, 9))) for _ in range(lines)] for lang in ("de", "en")
    }
    text["de"][: len(ODD)] = ODD
    for lang, sentences in text.items():
        (folder / f"in.{lang}").write_bytes("".join(s + "\n" for s in sentences).encode())
    return folder / "in", text


def noise(prefix, out, options=MIX, sides=("source",), seed=1, **others):
    return noise_text(prefix, out, LANGUAGES, options, sides=sides, seed=seed, **others)


def contents(out) -> list[bytes]:
    return [(out.parent / f"{out.name}.{lang}").read_bytes() for lang in ("de", "en")]


def test_the_number_of_workers_changes_nothing_and_the_manifest_says_what_was_done(tmp_path):
    prefix, sentences = corpus(tmp_path, 2 * BLOCK_LINES + 100)
    manifests = {n: noise(prefix, tmp_path / str(n), sides=("source", "target"), workers=n) for n in (1, 2, 7)}
    assert contents(tmp_path / "1") == contents(tmp_path / "2") == contents(tmp_path / "7")
    assert manifests[1]["noise"] == manifests[7]["noise"]
    for lang, side, data in zip(("de", "en"), ("source", "target"), contents(tmp_path / "1"), strict=True):
        assert data.decode().split("\n")[:-1] == noise_and_count(sentences[lang], MIX, 1, side=side)[0]
    report = json.loads((tmp_path / "1.manifest.json").read_text())["noise"]["de"]
    assert report["lines"] == 2 * BLOCK_LINES + 100 and report["lines_without_units"] == 2
    assert report["rates"]["delete"]["realised"] == pytest.approx(0.1, abs=0.01)
    example = report["examples"][-1]
    assert sentences["de"][example["line"] - 1] == example["before"] != example["after"]


def test_the_other_side_is_copied_and_compressed_input_gives_the_same(tmp_path):
    prefix, _ = corpus(tmp_path, 50)
    noise(prefix, tmp_path / "plain")
    (tmp_path / "zip").mkdir()
    for lang in ("de", "en"):
        data = (tmp_path / f"in.{lang}").read_bytes().removesuffix(b"\n")  # nor is the last line ended
        (tmp_path / "zip" / f"in.{lang}.gz").write_bytes(gzip.compress(data))
    noise(tmp_path / "zip" / "in", tmp_path / "unzipped")
    assert contents(tmp_path / "plain") == contents(tmp_path / "unzipped")
    source, target = contents(tmp_path / "plain")
    assert target == (tmp_path / "in.en").read_bytes() and source != (tmp_path / "in.de").read_bytes()


def test_a_finished_result_is_checked_and_kept_and_another_request_refused(tmp_path, monkeypatch):
    prefix, _ = corpus(tmp_path, 50)
    manifest = noise(prefix, tmp_path / "out")
    monkeypatch.setattr(NoisySide, "noise", None)
    assert noise(prefix, tmp_path / "out") == manifest
    with pytest.raises(KDError, match="was made with seed 1, this command has 2"):
        noise(prefix, tmp_path / "out", seed=2)
    (tmp_path / "out.de").write_text("changed\n")
    with pytest.raises(KDError, match="was changed after it was made"):
        noise(prefix, tmp_path / "out")


@pytest.mark.parametrize("moves", [0, 1, 2])
def test_a_run_that_is_killed_while_files_are_moved_is_finished_by_the_same_command(tmp_path, monkeypatch, moves):
    prefix, _ = corpus(tmp_path, 50)
    noise(prefix, tmp_path / "whole")
    replace, moved = os.replace, []

    def replace_or_die(source, destination):
        if ".out.part" in str(source) and ".manifest.json." not in str(source):
            if len(moved) == moves:
                os.kill(os.getpid(), signal.SIGKILL)
            moved.append(destination)
        replace(source, destination)

    child = os.fork()
    if child == 0:
        os.replace = replace_or_die
        noise(prefix, tmp_path / "out")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert not (tmp_path / "out.manifest.json").exists()
    assert (tmp_path / "out.de").exists() == (moves > 0)
    monkeypatch.setattr(NoisySide, "noise", None)  # nothing is computed again
    manifest = noise(prefix, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    check_files(tmp_path, manifest["files"])
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".out")]


def test_what_a_run_killed_in_its_work_left_is_replaced(tmp_path):
    prefix, _ = corpus(tmp_path, 50)
    noise(prefix, tmp_path / "whole")
    (tmp_path / ".out.part").mkdir()
    (tmp_path / ".out.part" / "out.de").write_text("half a li")
    noise(prefix, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_nothing_is_left_of_a_run_that_fails(tmp_path, monkeypatch):
    prefix, _ = corpus(tmp_path, 50)
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(text, "library_versions", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        noise(prefix, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


def test_memory_does_not_hold_the_corpus(tmp_path):
    """Blocks are read as they are needed: when the first has its noise, the last has not been read."""
    read = []

    def blocks():
        for number in range(100):
            read.append(number)
            yield b"a b c\n"

    level = TextLevel(NoiseOptions(swap=0.5))
    for workers in (1, 2):
        read.clear()
        noisy = NoisySide(level, 1, "source", workers).noise(blocks())
        next(noisy)
        assert len(read) <= 2 * workers + 1
        noisy.close()


def test_a_line_that_is_not_utf8_is_named(tmp_path):
    prefix, _ = corpus(tmp_path, BLOCK_LINES + 10)
    lines = (tmp_path / "in.de").read_bytes().split(b"\n")
    lines[BLOCK_LINES + 4] = b"caf\xe9 au lait"
    (tmp_path / "in.de").write_bytes(b"\n".join(lines))
    for sides in (("source",), ("target",)):
        with pytest.raises(KDError, match=rf"line {BLOCK_LINES + 5} of .*in.de is not UTF-8"):
            noise(prefix, tmp_path / "out", sides=sides)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.de", "in.en"]


def test_level_subword_uses_the_given_model(tmp_path, corpus_model):
    prefix, sentences = corpus(tmp_path, 50)
    noise(prefix, tmp_path / "out", NoiseOptions(level="subword", delete=0.3), subword_model=corpus_model)
    lines = contents(tmp_path / "out")[0].decode().split("\n")[:-1]
    for before, after in zip(sentences["de"], lines, strict=True):
        assert bool(before.strip()) == bool(after.strip())
        remaining = iter(before.replace(" ", ""))
        assert all(char in remaining for char in after.replace(" ", "").replace("\u00e9", "e\u0301"))


@pytest.fixture(scope="module")
def corpus_model(tmp_path_factory):
    from fairseq_kd.corpus.bpe import SubwordNMTModel

    path = tmp_path_factory.mktemp("model") / "joint.codes"
    SubwordNMTModel.train(["one two abc abd cr lf bed"] * 3, 10, path)
    return path


BASE = ["noise", "--source-lang", "de", "--target-lang", "en"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prefix", "{in}", "--delete", "1.5"], "--delete 1.5: must be between 0 and 1"),
        (["--prefix", "{in}", "--delete", "0.6", "--swap", "0.6"], "sum to 1.2"),
        (["--prefix", "{in}"], "no noise is requested"),
        (["--prefix", "{in}.nowhere", "--delete", "0.1"], "nowhere.de does not exist, neither plain nor with .gz"),
        (["--delete", "0.1"], "give either --prefix IN or --data-bin DIR"),
        (["--prefix", "{in}", "--delete", "0.1", "--workers", "0"], "--workers 0: must be at least 1"),
        (["--prefix", "{in}", "--delete", "0.1", "--seed", "-2"], "--seed -2: must be 0 or above"),
        (["--prefix", "{in}", "--delete", "0.1", "--subset", "test"], "--subset has no effect with --prefix"),
        (["--prefix", "{in}", "--delete", "0.1", "--level", "subword"], "needs --subword-model"),
        (
            ["--prefix", "{in}", "--delete", "0.1", "--subword-model", "m"],
            "--subword-model has no effect with --level word",
        ),
        (["--prefix", "{in}", "--delete", "0.1", "--level", "subword", "--subword-model", "m"], "m is not there"),
        (["--data-bin", "nowhere", "--delete", "0.1"], "nowhere is not a folder"),
        (["--data-bin", "nowhere", "--delete", "0.1", "--subword-model", "m"], "--subword-model has no effect"),
    ],
)
def test_bad_input_is_one_clear_error(tmp_path, capsys, words, message):
    prefix, _ = corpus(tmp_path, 20)
    words = [word.replace("{in}", str(prefix)) for word in words]
    assert main([*BASE, "--out", str(tmp_path / "out"), *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.glob("*out*"))


def test_an_unknown_side_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*BASE, "--prefix", "in", "--out", "out", "--delete", "0.1", "--side", "middle"])
    assert stopped.value.code == 2 and "invalid choice: 'middle'" in capsys.readouterr().err


def test_files_in_the_way_and_files_that_are_not_aligned_are_refused(tmp_path):
    prefix, _ = corpus(tmp_path, 20)
    (tmp_path / "out.en").write_text("mine\n")
    with pytest.raises(KDError, match="out.en exists and was not made by this command"):
        noise(prefix, tmp_path / "out")
    assert (tmp_path / "out.en").read_text() == "mine\n"
    with pytest.raises(KDError, match="cannot write to .*in.de"):
        noise(prefix, tmp_path / "in.de" / "out")
    with open(tmp_path / "in.en", "a") as file:
        file.write("one more")
    with pytest.raises(KDError, match="in.de has 20 lines and .*in.en has 21"):
        noise(prefix, tmp_path / "other")
    (tmp_path / "in.en.gz").write_bytes(gzip.compress(b"a\n" * 20)[:-9])
    (tmp_path / "in.en").unlink()
    with pytest.raises(KDError, match="in.en.gz is a damaged gzip file"):
        noise(prefix, tmp_path / "other")
    assert not list(tmp_path.glob("*other*"))


def test_the_script_is_the_command(tmp_path, monkeypatch, capsys):
    prefix, _ = corpus(tmp_path, 20)
    words = [*BASE[1:], "--prefix", str(prefix), "--out", str(tmp_path / "out"), "--delete"]
    for rate, status in (("3", 2), ("0.3", 0)):
        monkeypatch.setattr(sys, "argv", ["inject_noise.py", *words, rate])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(ROOT / "scripts" / "inject_noise.py"), run_name="__main__")
        assert stopped.value.code == status
    noise(prefix, tmp_path / "same", NoiseOptions(delete=0.3))
    assert contents(tmp_path / "out") == contents(tmp_path / "same")
    output = capsys.readouterr()
    assert "--delete 3.0: must be between 0 and 1" in output.err and "(asked: 0.3)" in output.out


def test_noise_of_a_seed_is_the_same_in_every_version():
    """Literal: a change of the arrays, of numpy or of pyarrow must not change what a published seed gives."""
    lines = ["the quick brown fox jumps over the lazy dog", "a b c d e f g h i j k l m n o p"]
    noisy = noise_lines(lines, delete=0.2, substitute=0.2, swap=0.2, seed=1)
    assert noisy == ["quick brown the fox the lazy e", "g b m c e b h g l i m n p o"]


def test_counts_add_up_over_blocks():
    noisy = NoisySide(TextLevel(NoiseOptions(delete=0.5)), 1, "source")
    blocks = [b"a b c\n\nd\n"] * 3
    kept = sum(len(noised.data.tobytes().split()) for _, noised in noisy.noise(iter(blocks)))
    report = noisy.report()
    assert report["units"] == 12 and report["lines"] == 9 and report["lines_without_units"] == 3
    assert report["rates"]["delete"]["done"] == 12 - kept
    assert np.isclose(report["rates"]["delete"]["realised"], (12 - kept) / 12)
