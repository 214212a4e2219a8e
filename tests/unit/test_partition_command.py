"""`fairseq-kd partition` on data-bins and text."""

import json
import os
import shlex
import shutil
import threading

import numpy as np
import pytest
from conftest import TINY_MODEL, run_fairseq
from docs_helpers import blocks_run_by

from fairseq_kd.artifacts.manifest import check_files, read_manifest
from fairseq_kd.cli.main import main
from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus.subword import load_subword_models
from fairseq_kd.corpus.text import write_lines
from fairseq_kd.evaluation.segments import read_segments
from fairseq_kd.inference.opening import open_data
from fairseq_kd.noise.data_bin import noise_data_bin
from fairseq_kd.noise.operations import NoiseOptions
from fairseq_kd.partition.data_bin import partition_data_bin
from fairseq_kd.partition.options import PartitionOptions

LANGUAGES = ("qaa", "qab")


def partition(data_bin, out, by="uniform", parts=3, split=(), domains=(), plot=False, **options):
    return partition_data_bin(
        data_bin, out, PartitionOptions(parts, by, **options), split=split, domains=domains, plot=plot
    )


def pairs(folder, subset="train") -> list[tuple]:
    dataset = open_data(folder, LANGUAGES, subset).dataset(subset)
    return [(tuple(s.tolist()), tuple(t.tolist())) for s, t in zip(dataset.src, dataset.tgt, strict=True)]


def numbers(out, subset="train") -> list[int]:
    return [int(line) for line in (out / "parts" / f"{subset}.txt").read_text().splitlines()]


def contents(folder) -> dict:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def lengths(data_bin, tmp_path_factory):
    """Three bands of length, valid divided too."""
    out = tmp_path_factory.mktemp("partition") / "lengths"
    partition(data_bin, out, "length", split=["valid"], plot=True)
    return out


def test_the_parts_hold_the_sentences_that_the_list_says_in_their_order(data_bin, lengths):
    for subset in ("train", "valid"):
        of, whole = numbers(lengths, subset), pairs(data_bin, subset)
        assert len(of) == len(whole)
        for part in (1, 2, 3):
            wanted = [pair for pair, number in zip(whole, of, strict=True) if number == part]
            assert pairs(lengths / f"part{part}", subset) == wanted != []
    sizes = [len(source) for source, _ in pairs(lengths / "part1")]
    assert max(sizes) <= min(len(source) for source, _ in pairs(lengths / "part2"))
    assert len(numbers(lengths, "test")) == 30


def test_a_part_has_the_dictionaries_the_subwords_and_the_undivided_subsets_of_the_original(data_bin, lengths):
    old, before = read_manifest(data_bin), contents(data_bin)
    for part in (1, 2, 3):
        folder, manifest = lengths / f"part{part}", read_manifest(lengths / f"part{part}")
        found = contents(folder)
        assert found.keys() == before.keys() == manifest["files"].keys() | {"manifest.json"}
        for name in found:
            if name.startswith(("dict.", "subword/", "test.", "raw/test.")):
                assert os.path.samefile(folder / name, data_bin / name)
        check_files(folder, manifest["files"])
        assert manifest["subword"] == old["subword"] and manifest["subsets"]["test"] == old["subsets"]["test"]
        assert manifest["subsets"]["train"]["pairs"] == manifest["pairs"] == len(pairs(folder))
        assert manifest["subsets"]["valid"]["corpus_name"] == f"valid, part {part}"
    check_files(data_bin, old["files"])  # links were replaced, not written into


def test_the_text_of_a_part_is_that_of_its_sentences(lengths):
    model = load_subword_models(lengths / "part2", *LANGUAGES)["qab"]
    dictionary = open_data(lengths / "part2", LANGUAGES, "valid").target_dictionary
    text = [
        model.decode(" ".join(dictionary[i] for i in target[:-1])) for _, target in pairs(lengths / "part2", "valid")
    ]
    assert read_segments(lengths / "part2", "valid").references == text
    assert len(read_segments(lengths / "part2", "test").references) == 30


def test_the_figures_are_written_as_json_markdown_and_svg(data_bin, lengths):
    manifest, found = read_manifest(lengths), json.loads((lengths / "differences.json").read_text())
    assert [row["sentences"] for row in found["parts"]] == manifest["sentences"] == [134, 133, 133]
    assert found["all"]["source"]["tokens"] == sum(len(source) - 1 for source, _ in pairs(data_bin))
    assert found["unit"] == "words"
    assert (lengths / "differences.svg").read_text().startswith("<svg")
    assert "| all | 400 |" in (lengths / "differences.md").read_text()
    assert {"part1/train.qaa-qab.qaa.bin", "parts/test.txt", "differences.svg"} <= manifest["files"].keys()


def test_a_training_on_a_part_runs_and_the_part_is_a_data_bin_for_other_commands(lengths, tmp_path):
    words = [lengths / "part1", *TINY_MODEL, "--max-update", "1", "--no-save", "--save-dir", tmp_path]
    result = run_fairseq("train", *words, user_dir=None)
    assert result.returncode == 0, result.stderr[-2000:]
    assert '"num_updates": "1"' in result.stderr + result.stdout or "num_updates: 1" in result.stderr + result.stdout
    noise_data_bin(lengths / "part1", tmp_path / "noisy", NoiseOptions(delete=0.1), sides=("source",), seed=1)
    assert len(pairs(tmp_path / "noisy")) == 134


@pytest.mark.parametrize("by", ["uniform", "quantity", "topic", "vocabulary"])
def test_the_same_request_gives_the_same_bytes_and_a_finished_one_is_kept(data_bin, tmp_path, by):
    options = {"alpha": 0.5, "topics": 4} if by == "topic" else {}
    first = partition(data_bin, tmp_path / "one", by, plot=by == "topic", **options)
    partition(data_bin, tmp_path / "two", by, plot=by == "topic", **options)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert sum(first["sentences"]) == 400 and sorted(numbers(tmp_path / "one"))[-1] == 3
    assert partition(data_bin, tmp_path / "one", by, plot=by == "topic", **options) == first
    with pytest.raises(KDError, match="was made with parts 3, this command has 2"):
        partition(data_bin, tmp_path / "one", by, parts=2, plot=by == "topic", **options)


def test_train1_belongs_to_the_training_set(data_bin, tmp_path):
    shutil.copytree(data_bin, tmp_path / "two")
    (tmp_path / "two" / "manifest.json").unlink()
    shutil.rmtree(tmp_path / "two" / "subword")
    for path in (tmp_path / "two").glob("valid.*"):
        shutil.copyfile(path, path.with_name(path.name.replace("valid", "train1")))
    partition(tmp_path / "two", tmp_path / "out", parts=2)
    assert len(numbers(tmp_path / "out")) == 430
    assert len(pairs(tmp_path / "out" / "part1")) + len(pairs(tmp_path / "out" / "part2")) == 430
    assert not list((tmp_path / "out" / "part1").glob("train1*"))
    found = json.loads((tmp_path / "out" / "differences.json").read_text())
    assert found["unit"] == "subwords"  # nothing says how they make words
    with pytest.raises(KDError, match="give --post-process"):
        partition(tmp_path / "two", tmp_path / "topic", "topic")


def test_domains_of_train_and_test(data_bin, tmp_path):
    write_lines(tmp_path / "train.domains", ["news", "law"] * 200)
    write_lines(tmp_path / "test.domains", ["law", "news", "law"] * 10)
    domains = [str(tmp_path / "train.domains"), f"test={tmp_path / 'test.domains'}"]
    partition(data_bin, tmp_path / "out", "domain-file", parts=2, domains=domains)
    law, news = numbers(tmp_path / "out")[1], numbers(tmp_path / "out")[0]
    assert numbers(tmp_path / "out") == [news, law] * 200 and {law, news} == {1, 2}
    assert numbers(tmp_path / "out", "test") == [law, news, law] * 10
    assert not (tmp_path / "out" / "parts" / "valid.txt").exists()
    write_lines(tmp_path / "train.domains", ["news"] * 400)
    with pytest.raises(KDError, match=r"was made with domains\.train"):
        partition(data_bin, tmp_path / "out", "domain-file", parts=2, domains=domains)


def test_the_commands_of_the_page_on_partitions(data_bin, corpus, tmp_path, monkeypatch, capsys):
    (tmp_path / "data-bin").mkdir()
    (tmp_path / "data-bin" / "mine").symlink_to(data_bin)
    for lang, name in (("qaa", "de"), ("qab", "en")):
        shutil.copyfile(corpus / f"train.{lang}", tmp_path / f"train.{name}")
    monkeypatch.chdir(tmp_path)
    (block,) = blocks_run_by("test_the_commands_of_the_page_on_partitions")
    for command in block.commands():
        assert main(shlex.split(command)[1:]) == 0
    printed = capsys.readouterr().out
    assert "400 sentences by topic" in printed and "next: fairseq-train parts/topic/part1" in printed
    of = numbers(tmp_path / "parts" / "length")
    for lang in ("de", "en"):
        whole = (tmp_path / f"train.{lang}").read_bytes().splitlines(keepends=True)
        for part in (1, 2, 3, 4):
            wanted = b"".join(line for line, number in zip(whole, of, strict=True) if number == part)
            assert (tmp_path / "parts" / "length" / f"part{part}.{lang}").read_bytes() == wanted
    assert np.bincount(of).tolist() == [0, 100, 100, 100, 100]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--parts 2 --by uniform", "give either DATA_BIN or --prefix IN"),
        ("DATA --prefix train --parts 2 --by uniform", "give either DATA_BIN or --prefix IN"),
        ("DATA --parts 401 --by uniform", "--parts 401 is more than 400 sentences can fill"),
        ("DATA --parts 2 --by uniform --split train", "--split train: must be a subset beside train"),
        ("DATA --parts 2 --by uniform --split dev", "--split dev: must be a subset beside train"),
        ("DATA --parts 31 --by uniform --split valid", "--split valid: part 31 gets none of its 30 sentences"),
        ("DATA --parts 2 --by uniform -s qaa", "give --source-lang and --target-lang, or neither"),
        ("DATA --parts 2 --by length --alpha 1", "--alpha has no effect with --by length"),
        ("DATA --parts 2 --by uniform --post-process none", "--post-process none: the manifest of"),
        ("DATA --parts 2 --by domain-file --domains none.txt", "--domains none.txt: none.txt is not there"),
        ("DATA --parts 2 --by domain-file --domains short.txt", "has 2 lines, and train has 400 sentences"),
        ("DATA --parts 2 --by domain-file --domains gap.txt", "line 7 of gap.txt has no label"),
        ("DATA --parts 2 --by domain-file --domains gap.txt --domains gap.txt", "a file for train is given twice"),
        ("DATA --parts 2 --by domain-file --domains valid=gap.txt", "--domains train=FILE is needed"),
        ("DATA --parts 2 --by domain-file --domains gap.txt --split valid", "--domains valid=FILE is needed"),
        ("nothing --parts 2 --by uniform", "DATA_BIN nothing is not a folder"),
        ("--prefix train --parts 2 --by uniform", "--prefix needs --source-lang and --target-lang"),
        ("--prefix train -s qaa -t qab --parts 2 --by uniform --split valid", "--split has no effect with --prefix"),
        ("--prefix train -s qaa -t qac --parts 2 --by uniform", "train.qac does not exist"),
        ("--prefix uneven -s qaa -t qab --parts 2 --by uniform", "they are not aligned line by line"),
        ("--prefix latin -s qaa -t qab --parts 2 --by uniform", "line 2 of latin.qaa is not UTF-8"),
    ],
)
def test_bad_input_is_one_clear_error_and_leaves_nothing(words, said, data_bin, corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_lines("short.txt", ["a", "b"])
    write_lines("gap.txt", ["a", "b"] * 3 + [""] + ["a"] * 393)
    for lang in LANGUAGES:
        shutil.copyfile(corpus / f"train.{lang}", f"train.{lang}")
        write_lines(f"uneven.{lang}", ["a"] * len(f"{lang}{'b' * (lang == 'qab')}"))
        (tmp_path / f"latin.{lang}").write_bytes(b"a\n\xe4\nb\n")
    command = words.replace("DATA ", f"{data_bin} ").split()
    assert main(["partition", *command, "--out", "out", "--no-plot"]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fairseq_kd: error:")]
    assert len(errors) == 1 and said in errors[0]
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_two_commands_at_once_make_one_result(data_bin, tmp_path):
    answers = []

    def work():
        try:
            answers.append(partition(data_bin, tmp_path / "out")["sentences"])
        except KDError as error:
            answers.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [134, 133, 133] in answers
    assert all(a == [134, 133, 133] or "another process" in a for a in answers)
    check_files(tmp_path / "out", read_manifest(tmp_path / "out")["files"])
    assert not [path for path in tmp_path.iterdir() if path.name != "out"]
