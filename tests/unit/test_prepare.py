import argparse
import gzip
import hashlib
import http.server
import json
import os
import shutil
import subprocess
import threading
from dataclasses import replace
from functools import partial

import pytest
from conftest import ROOT

from fairseq_kd.artifacts.folders import folder_in_progress
from fairseq_kd.artifacts.locks import exclusive
from fairseq_kd.artifacts.manifest import check_files, read_manifest
from fairseq_kd.cli.main import main
from fairseq_kd.cli.prepare import add_arguments
from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus import download
from fairseq_kd.corpus.bpe import SubwordNMTModel
from fairseq_kd.corpus.clean import write_clean_text
from fairseq_kd.corpus.corpora import CORPORA
from fairseq_kd.corpus.prepare import _sample
from fairseq_kd.corpus.prepare_options import PrepareOptions
from fairseq_kd.corpus.sentencepiece_model import SentencePieceModel
from fairseq_kd.corpus.subword import load_decoder
from fairseq_kd.corpus.text import SubsetFiles, write_lines


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    for stem, count in (("train", 60), ("dev", 5), ("test_a", 4), ("test_b", 3)):
        for lang, word in (("de", "wort"), ("en", "word")):
            lines = "".join(f"{word} {i} {'ab' * (i % 7)}\n" for i in range(count))
            (folder / f"{stem}.{lang}").write_text(lines)
    return folder


def prepare_text(raw, out, *extra, vocab_size=("--vocab-size", "60")):
    words = ["prepare", "text", "--raw", raw, "-s", "de", "-t", "en", "--out", out, *vocab_size]
    return main([str(word) for word in [*words, *extra]])


def dataset(folder, subset, lang):
    from fairseq.data import Dictionary, indexed_dataset

    data = indexed_dataset.make_dataset(f"{folder}/{subset}.de-en.{lang}", "mmap")
    dictionary = Dictionary.load(f"{folder}/dict.{lang}.txt")
    return [dictionary.string(data[i]) for i in range(len(data))]


@pytest.mark.parametrize(
    ("extra", "decode"),
    [
        ((), load_decoder("sentencepiece")),
        (("--separate", "--vocab-size", "40"), load_decoder("sentencepiece")),
        (("--subword", "subword-nmt"), load_decoder("subword-nmt")),
        (("--subword", "none", "--vocab-size", "8000"), str),
    ],
)
def test_binarised_text_is_the_raw_text_again(raw, tmp_path, extra, decode):
    out = tmp_path / "out"
    assert prepare_text(raw, out, *extra) == 0
    for subset, stem in (("train", "train"), ("valid", "dev"), ("test", "test_a"), ("test1", "test_b")):
        for lang in ("de", "en"):
            lines = [line.strip() for line in (raw / f"{stem}.{lang}").read_text().splitlines()]
            assert [decode(line) for line in dataset(out, subset, lang)] == lines
            if subset != "train":
                assert (out / "raw" / f"{subset}.{lang}").read_text().splitlines() == lines
    manifest = read_manifest(out)
    assert manifest["joint_dictionary"] == ("--separate" not in extra)
    assert manifest["subsets"]["test1"] == {
        "corpus_name": "test_b",
        "pairs": 3,
        "unknown_tokens": {"de": 0, "en": 0},
        "cleaning": manifest["subsets"]["test1"]["cleaning"],
    }
    check_files(out, manifest["files"])


def test_the_same_command_gives_the_same_bytes_and_keeps_what_is_complete(raw, tmp_path, capsys):
    assert prepare_text(raw, tmp_path / "a") == 0 and prepare_text(raw, tmp_path / "b") == 0
    first, second = ((tmp_path / name / "manifest.json").read_bytes() for name in "ab")
    assert first == second
    modified = (tmp_path / "a" / "manifest.json").stat().st_mtime_ns
    assert prepare_text(raw, tmp_path / "a") == 0
    assert "complete and unchanged" in capsys.readouterr().err
    assert (tmp_path / "a" / "manifest.json").stat().st_mtime_ns == modified


def test_like_reuses_subwords_and_dictionaries(raw, tmp_path):
    assert prepare_text(raw, tmp_path / "a") == 0
    (raw / "train.de").write_text("wort neu xyz\n" * 60)
    assert prepare_text(raw, tmp_path / "b", "--like", tmp_path / "a", vocab_size=()) == 0
    for name in ("dict.de.txt", "dict.en.txt", "subword/joint.spm"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    unknown = read_manifest(tmp_path / "b")["subsets"]["train"]["unknown_tokens"]
    assert unknown["de"] >= 60 and unknown["en"] == 0
    (tmp_path / "a" / "dict.de.txt").write_text("changed 1\n")
    assert prepare_text(raw, tmp_path / "c", "--like", tmp_path / "a", vocab_size=()) == 2


def test_like_must_be_text_of_the_same_form(raw, tmp_path, capsys):
    assert prepare_text(raw, tmp_path / "a") == 0
    assert prepare_text(raw, tmp_path / "b", "--like", tmp_path / "a", "--form", "lower-cased", vocab_size=()) == 2
    assert "is cased text, --form is lower-cased" in capsys.readouterr().err


def test_a_subword_model_is_reused(raw, tmp_path):
    assert prepare_text(raw, tmp_path / "a") == 0
    model = tmp_path / "a" / "subword" / "joint.spm"
    assert prepare_text(raw, tmp_path / "b", "--subword-model", model, vocab_size=()) == 0
    assert (tmp_path / "b" / "subword" / "joint.spm").read_bytes() == model.read_bytes()


def test_subwords_are_learned_from_evenly_spaced_pairs(raw, tmp_path):
    lines = [str(number) for number in range(10)]
    write_lines(tmp_path / "x", lines)
    assert list(_sample(tmp_path / "x", 10, 3)) == ["3", "6", "9"]
    assert list(_sample(tmp_path / "x", 10, 10)) == list(_sample(tmp_path / "x", 10, 99)) == lines
    assert prepare_text(raw, tmp_path / "all") == 0
    assert prepare_text(raw, tmp_path / "some", "--subword-sample", "20") == 0
    models = [(tmp_path / name / "subword" / "joint.spm").read_bytes() for name in ("all", "some")]
    assert models[0] != models[1]
    assert read_manifest(tmp_path / "some")["request"]["options"]["sample"] == 20
    assert len(dataset(tmp_path / "some", "train", "de")) == 60


def test_memory_does_not_grow_with_the_corpus(tmp_path):
    """Reading, cleaning and writing 20,000 pairs takes no more than 2,000 do."""
    import tracemalloc

    peaks = []
    for count in (2_000, 20_000):
        paths = [tmp_path / f"{count}.{lang}" for lang in ("de", "en")]
        for path in paths:
            path.write_text("ein satz mit einigen worten\n" * count)
        tracemalloc.start()
        files = SubsetFiles("x", *paths)
        write_clean_text(files, ("de", "en"), PrepareOptions(), {"x": tmp_path / "clean"}, "reading", training=True)
        assert sum(1 for _ in _sample(tmp_path / "clean.de", count, count // 2)) == count // 2
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0], peaks


@pytest.mark.parametrize("name", ["iwslt14", "iwslt17", "wmt14", "multi30k"])
def test_scripts_call_prepare(name, tmp_path):
    """With a fairseq-kd that prints its arguments: they are the arguments of the command line."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")  # where no .venv is beside it
    command = tmp_path / "fairseq-kd"
    command.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    command.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    script = tmp_path / "scripts" / f"prepare_{name}.sh"
    for extra, out in ((["my out", "--raw", "my raw"], "my out"), ([], f"data-bin/{name}.")):
        printed = subprocess.run([script, *extra], env=environment, capture_output=True, text=True, check=True).stdout
        command, *arguments = printed.splitlines()
        args = parser.parse_args(arguments)
        assert command == "prepare" and args.name.startswith(name) and args.out.startswith(out)
        assert args.raw == ("my raw" if extra else None)


def break_alignment(raw):
    with open(raw / "train.en", "a") as file:
        file.write("one more\n")


@pytest.mark.parametrize(
    ("damage", "extra", "message"),
    [
        (break_alignment, (), "60 lines and .* has 61"),
        (lambda raw: (raw / "dev.en").unlink(), (), "languages found in .*: de, en"),
        (None, ("-t", "xx"), "languages found in .*: de, en"),
        (None, ("-t", "de"), "both 'de'"),
        (None, ("--subword", "words"), "--subword words"),
        (None, ("--vocab-size", "100000"), "cannot train 100000 pieces"),
        (None, ("--max-words", "0"), "--max-words 0"),
        (None, ("--subword-sample", "0"), "--subword-sample 0"),
        (None, ("--subword", "none", "--subword-sample", "9"), "--subword-sample 9 has no effect"),
        (None, ("--train", "train"), "give all of --train, --valid and --test"),
        (None, ("--seed", "3"), "--seed has no effect with text"),
        (None, ("--subword-model", "nothing.spm", "--vocab-size", "8000"), "nothing.spm is not there"),
        (None, ("--subword-model", "nothing.spm"), "--vocab-size 60 has no effect"),
        (None, ("--subword", "none"), "--vocab-size 60 has no effect"),
        (None, ("--like", "nothing"), "--vocab-size"),
        (None, ("--raw", "nothing"), "nothing is not a folder"),
    ],
)
def test_bad_input_is_one_error_status_2_and_nothing_is_left(raw, tmp_path, capsys, damage, extra, message):
    import re

    if damage:
        damage(raw)
    out = tmp_path / "made" / "out"
    assert prepare_text(raw, out, *extra) == 2
    error = capsys.readouterr().err
    line = [line for line in error.splitlines() if line.startswith("fairseq_kd: error:")]
    assert len(line) == 1 and re.search(message, line[0]), error
    assert not (tmp_path / "made").exists() or list((tmp_path / "made").iterdir()) == []


def test_out_that_cannot_be_written_or_is_someone_elses_is_refused(raw, tmp_path, capsys):
    (tmp_path / "file").write_text("not a folder")
    assert prepare_text(raw, tmp_path / "file" / "out") == 2
    assert "cannot write to" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious").write_text("x")
    assert prepare_text(raw, tmp_path / "mine") == 2
    assert "was not made by" in capsys.readouterr().err
    assert (tmp_path / "mine" / "precious").read_text() == "x"


def test_a_changed_request_or_a_changed_file_is_noticed(raw, tmp_path, capsys):
    out = tmp_path / "out"
    assert prepare_text(raw, out) == 0
    assert prepare_text(raw, out, "--max-words", "20") == 2
    assert "was made with options.rules.max_words 175, this command has 20" in capsys.readouterr().err
    (out / "raw" / "test.en").write_text("changed\n")
    assert prepare_text(raw, out) == 2
    assert "was changed" in capsys.readouterr().err


def test_two_commands_at_once_do_not_disturb_each_other(raw, tmp_path, capsys):
    with exclusive(tmp_path / "out"):
        assert prepare_text(raw, tmp_path / "out") == 2
    assert "another process is working on" in capsys.readouterr().err
    assert prepare_text(raw, tmp_path / "out") == 0


def test_seed_and_size_of_the_synthetic_corpus_are_taken_as_given(tmp_path, capsys):
    words = ["prepare", "synthetic", "--vocab-size", "300", "--out"]
    for seed in ("0", "1"):
        assert main([*words, str(tmp_path / seed), "--pairs", "100", "--seed", seed]) == 0
    sources = [(tmp_path / seed / "raw" / "test.qaa").read_text() for seed in ("0", "1")]
    assert sources[0] != sources[1]
    assert main([*words, str(tmp_path / "none"), "--pairs", "0"]) == 2
    assert "--pairs 0" in capsys.readouterr().err


def test_folder_in_progress_removes_leftovers_and_leaves_nothing_when_it_fails(tmp_path):
    leftover = tmp_path / ".out.part-killed"
    leftover.mkdir()
    with pytest.raises(RuntimeError), folder_in_progress(tmp_path / "out") as folder:
        (folder / "x").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


class TestMulti30k:
    @pytest.fixture
    def official(self, tmp_path, monkeypatch):
        """Miniature files of the official names, whose hashes replace the official hashes."""
        folder = tmp_path / "official"
        folder.mkdir()
        hashes = {}
        for stem, count in (("train", 40), ("val", 4), ("test_2016_flickr", 4)):
            for lang in ("de", "en"):
                data = gzip.compress("".join(f"{lang} satz {i}\n" for i in range(count)).encode(), mtime=0)
                (folder / f"{stem}.{lang}.gz").write_bytes(data)
                hashes[f"{stem}.{lang}.gz"] = hashlib.sha256(data).hexdigest()
        monkeypatch.setitem(CORPORA, "multi30k", replace(CORPORA["multi30k"], sha256=hashes))
        monkeypatch.setenv("FAIRSEQ_KD_CACHE", str(tmp_path / "cache"))
        return folder

    @pytest.fixture
    def server(self, official, monkeypatch):
        handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(official))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
            threading.Thread(target=httpd.serve_forever, daemon=True).start()
            local = replace(CORPORA["multi30k"], url=f"http://127.0.0.1:{httpd.server_port}")
            monkeypatch.setitem(CORPORA, "multi30k", local)
            yield httpd
            httpd.shutdown()

    def run(self, out, *extra):
        words = ["prepare", "multi30k", "-s", "de", "-t", "en", "--vocab-size", "30", "--out", out, *extra]
        return main([str(word) for word in words])

    def test_files_are_downloaded_once_and_checked(self, official, server, tmp_path):
        assert self.run(tmp_path / "a") == 0
        server.shutdown()
        assert self.run(tmp_path / "b") == 0  # from the cache
        assert self.run(tmp_path / "c", "--raw", official) == 0
        subsets = [json.loads((tmp_path / n / "manifest.json").read_text())["subsets"] for n in "abc"]
        assert subsets[0] == subsets[1] == subsets[2]
        assert subsets[0]["test"]["corpus_name"] == "test_2016_flickr"

    def test_a_changed_download_is_refused_and_not_kept(self, official, server, tmp_path, capsys):
        (official / "train.de.gz").write_bytes(b"other")
        assert self.run(tmp_path / "a") == 2
        assert "sha256" in capsys.readouterr().err
        assert not list((tmp_path / "cache").rglob("*train.de*")) and not (tmp_path / "a").exists()

    def test_no_network_says_what_to_do(self, official, tmp_path, monkeypatch, capsys):
        monkeypatch.setitem(CORPORA, "multi30k", replace(CORPORA["multi30k"], url="http://127.0.0.1:9"))
        monkeypatch.setattr(download, "TIMEOUT_SECONDS", 2)
        assert self.run(tmp_path / "a") == 2
        assert "--raw" in capsys.readouterr().err

    def test_files_that_are_not_official_are_refused(self, official, tmp_path, capsys):
        (official / "val.en.gz").write_bytes(b"other")
        assert self.run(tmp_path / "a", "--raw", official) == 2
        assert "prepare text" in capsys.readouterr().err

    def test_unknown_language_is_refused(self, official, tmp_path, capsys):
        assert self.run(tmp_path / "a", "--raw", official, "-t", "nl") == 2
        assert "it has cs, de, en, fr" in capsys.readouterr().err


@pytest.mark.parametrize("model", [SentencePieceModel, SubwordNMTModel])
def test_a_file_that_is_no_subword_model_is_refused(model, tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"\xff\xfe nothing of the kind")
    with pytest.raises(KDError):
        model(path)


def test_the_reason_of_a_refusal_is_not_hidden_by_the_end_of_temporary_files(tmp_path, capsys):
    """The synthetic corpus is a temporary folder, which is removed as soon as the data-bin is refused."""
    (tmp_path / "model").write_bytes(b"\0 nothing of the kind")
    words = ["--pairs", "20", "--subword-model", str(tmp_path / "model"), "--out", str(tmp_path / "out")]
    assert main(["prepare", "synthetic", *words]) == 2
    assert f"error: {tmp_path / 'model'} is not a SentencePiece model" in capsys.readouterr().err


def test_hashes_of_multi30k_are_those_of_the_files_in_a_local_copy():
    from pathlib import Path

    folder = Path(__file__).resolve().parents[3] / "shared" / "data" / "multi30k"
    if not folder.is_dir():
        pytest.skip("no local copy of Multi30k")
    assert len(CORPORA["multi30k"].raw_files(("de", "en"), folder)) == 6
    assert len(CORPORA["multi30k"].raw_files(("cs", "fr"), folder)) == 6
