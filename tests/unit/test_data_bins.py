"""Data-bins that exist out there: other formats of fairseq-preprocess, unequal sides, several joined by ":"."""

import json
import os
import shutil
import struct

import pytest
import torch
from data_bin_helpers import COUNTS, LANGUAGES, binarise, commands, write_text
from helpers import build, losses_of_training

from fairseq_kd.cache.make import CachingOptions, make_cache
from fairseq_kd.cli.main import main
from fairseq_kd.core.errors import KDError
from fairseq_kd.inference.opening import open_data
from fairseq_kd.noise.data_bin import noise_data_bin
from fairseq_kd.noise.operations import NoiseOptions
from fairseq_kd.sequence.decode import decode
from fairseq_kd.sequence.decode_options import DecodeOptions
from fairseq_kd.sequence.mix import mix

MMAP = b"MMIDIDX\x00"  # what an index in fairseq's default format begins with


@pytest.fixture(scope="module")
def text(data_bin, tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    write_text(data_bin, folder)
    return folder


@pytest.fixture(scope="module")
def stored(data_bin, text, tmp_path_factory):
    """--dataset-impl -> the same text in a data-bin of that format."""
    folder = tmp_path_factory.mktemp("stored")
    dictionary = data_bin / "dict.qaa.txt"
    return {
        impl: binarise(text, folder / impl, dictionary, "--dataset-impl", impl)
        for impl in ("mmap", "lazy", "cached", "raw")
    }


@pytest.fixture(scope="module")
def unequal(data_bin, text, tmp_path_factory):
    """One source sentence of each subset holds a carriage return."""
    folder = tmp_path_factory.mktemp("unequal")
    shutil.copytree(text, folder / "text")
    for subset in COUNTS:
        path = folder / "text" / f"{subset}.qaa"
        lines = path.read_text().split("\n")
        lines[3] = lines[3].replace(" ", "\r", 1) if " " in lines[3] else f"{lines[3]}\r{lines[3]}"
        path.write_text("\n".join(lines), newline="")
    return binarise(folder / "text", folder / "data-bin", data_bin / "dict.qaa.txt")


def sentences(folder, subset="train") -> list:
    dataset = open_data(folder, LANGUAGES, subset).dataset(subset)
    return [(dataset.src[n].tolist(), dataset.tgt[n].tolist()) for n in range(len(dataset))]


def assert_refused(words, capsys, *fragments) -> None:
    """Status 2 and one line that holds the fragments."""
    capsys.readouterr()
    assert main(words) == 2, words
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fairseq_kd: error:")]
    assert len(lines) == 1, words
    for fragment in fragments:
        assert fragment in lines[0], words


@pytest.mark.parametrize("impl", ["lazy", "cached"])
def test_an_older_index_is_read_as_the_default_one(stored, impl):
    expected = sentences(stored["mmap"])
    assert len(expected) == 40 and sentences(stored[impl]) == expected


def test_what_is_made_of_an_older_index_is_what_is_made_of_the_default_one(stored, teacher, tmp_path):
    options = DecodeOptions(subset="valid", backend="fairseq", strategy="greedy", max_len_b=8, cpu=True)
    for impl in ("mmap", "cached"):
        made, data = tmp_path / impl, stored[impl]
        mix([data], [0.5], made / "mix")
        noise_data_bin(data, made / "noise", NoiseOptions(delete=0.3, level="subword"), sides=("target",), seed=1)
        decode(data, str(teacher), made / "decode", options)
        make_cache(data, teacher, made / "cache", CachingOptions(subset="valid", top_k=4, cpu=True))
    for name in ("mix", "noise"):
        assert sentences(tmp_path / "cached" / name) == sentences(tmp_path / "mmap" / name)
        assert sentences(tmp_path / "cached" / name, "test") == sentences(stored["mmap"], "test")
    for name in ("decode/valid.hypotheses.qab.tsv", "cache/ids.bin", "cache/delta.bin"):
        assert (tmp_path / "cached" / name).read_bytes() == (tmp_path / "mmap" / name).read_bytes()
    # fairseq-train reads all of a data-bin in one format
    written = [path for name in ("mix", "noise", "decode") for path in (tmp_path / "cached" / name).glob("*.idx")]
    assert len(written) == 18 and all(path.read_bytes()[:8] == MMAP for path in written)


def test_a_checkpoint_is_scored_on_any_format_whatever_it_was_trained_on(stored, teacher, text, tmp_path):
    for impl in ("mmap", "lazy"):
        words = commands(stored[impl], teacher, text, tmp_path)["evaluate"]
        assert main([*words, "--out", str(tmp_path / f"{impl}.json")]) == 0
    found = [json.loads((tmp_path / f"{impl}.json").read_text()) for impl in ("mmap", "lazy")]
    assert len(found[0]["hypotheses"]) == 10 and found[0]["hypotheses"] == found[1]["hypotheses"]


def refused_formats(stored, folder) -> dict:
    """What the error says -> a data-bin of a format that is not read."""
    fasta, huffman, damaged = (folder / name for name in ("fasta", "huffman", "damaged"))
    for made in (fasta, huffman, damaged):
        shutil.copytree(stored["mmap"], made)
    for path in [*fasta.glob("*.idx"), *fasta.glob("*.bin")]:
        path.rename(path.with_suffix(".fasta"))
    for path in huffman.glob("*.idx"):
        path.write_bytes(b"HUFFIDX\x00\x00" + struct.pack("<QQQ", 1, 0, 0))
    for path in damaged.glob("*.qab.idx"):
        path.write_bytes(b"not an index")
    return {
        "--dataset-impl raw": stored["raw"],
        "--dataset-impl fasta": fasta,
        "--dataset-impl huffman": huffman,
        ".qab.idx is not an index that fairseq-preprocess writes": damaged,
    }


def test_a_format_that_is_not_read_is_refused_by_name_by_every_command(stored, teacher, text, tmp_path, capsys):
    pytest.importorskip("ctranslate2")
    (tmp_path / "made").mkdir()
    for reason, data_bin in refused_formats(stored, tmp_path / "made").items():
        for words in commands(data_bin, teacher, text, tmp_path / "out").values():
            assert_refused(words, capsys, reason)
            shutil.rmtree(tmp_path / "out", ignore_errors=True)


def test_sides_of_different_formats_are_refused(stored, tmp_path):
    shutil.copytree(stored["mmap"], tmp_path / "mixed")
    for ending in ("idx", "bin"):
        name = f"train.qaa-qab.qab.{ending}"
        shutil.copy(stored["cached"] / name, tmp_path / "mixed" / name)
    with pytest.raises(KDError, match=r"mixes formats .*qaa \(mmap\), train.qaa-qab.qab \(cached\)"):
        open_data(tmp_path / "mixed", LANGUAGES, "train")


def test_unequal_sides_are_one_error_for_every_command(unequal, teacher, text, tmp_path, capsys):
    pytest.importorskip("ctranslate2")
    for name, words in commands(unequal, teacher, text, tmp_path / "out").items():
        subset, counts = ("train", "41 40") if name in ("cache", "decode", "mix", "noise") else ("", "11 10")
        source, target = counts.split()
        assert_refused(words, capsys, f"has {source} sentences in {subset}", f"and {target} in ", "carriage return")
        shutil.rmtree(tmp_path / "out", ignore_errors=True)


def test_unequal_sides_are_one_error_for_trainings_with_the_plugin(unequal, stored, teacher, tmp_path, capsys):
    _, task, *_ = build(unequal, "--criterion", "kd_word", "--teacher", teacher)
    with pytest.raises(SystemExit):
        task.load_dataset("train")
    assert "41 sentences in train.qaa-qab.qaa and 40 in train.qaa-qab.qab" in capsys.readouterr().err
    hybrid = ("--task", "kd_translation", "--criterion", "kd_hybrid", "--kd-weight", "0")
    _, task, *_ = build(stored["mmap"], *hybrid, "--distilled", unequal)
    with pytest.raises(SystemExit):
        task.load_dataset("train")
    assert "41 sentences in train.qaa-qab.qaa and 40 in" in capsys.readouterr().err


def test_an_older_index_is_trained_on_with_the_option_that_fairseq_needs(stored, teacher, capsys):
    word = ("--criterion", "kd_word", "--teacher", teacher)
    losses, _ = losses_of_training(stored["cached"], *word, "--dataset-impl", "lazy", updates=1)
    assert losses == losses_of_training(stored["mmap"], *word, updates=1)[0]
    with pytest.raises(SystemExit):
        losses_of_training(stored["cached"], *word, updates=1)
    assert "give --dataset-impl lazy to fairseq-train" in capsys.readouterr().err


def test_unequal_parts_whose_sums_agree_are_not_read_as_shifted_pairs(unequal, stored, tmp_path):
    """fairseq joins train and train1 side by side and compares the sums only."""
    folder = tmp_path / "data-bin"
    shutil.copytree(unequal, folder)
    for ending in ("idx", "bin"):
        shutil.copy(stored["mmap"] / f"train.qaa-qab.qaa.{ending}", folder / f"train1.qaa-qab.qaa.{ending}")
        shutil.copy(unequal / f"train.qaa-qab.qaa.{ending}", folder / f"train1.qaa-qab.qab.{ending}")
    with pytest.raises(KDError, match=r"41 sentences in train\.qaa-qab\.qaa and 40"):
        open_data(folder, LANGUAGES, "train")


def test_sharded_data_are_refused_with_the_remedy_by_every_command(stored, teacher, text, tmp_path, capsys):
    pytest.importorskip("ctranslate2")
    both = f"{stored['mmap']}:{stored['cached']}"
    listed = commands(both, teacher, text, tmp_path / "out")
    listed["count"] = ["count", "--arch", "transformer", "--data", both]
    listed["init-student"] = [
        *("init-student", "--teacher", str(teacher), "--arch", "transformer"),
        *("--data", both, "--out", str(tmp_path / "out")),
    ]
    for words in listed.values():
        remedy = f"fairseq-kd mix {stored['mmap']} {stored['cached']} --out"
        assert_refused(words, capsys, "names 2 data-bins", remedy)
    assert not (tmp_path / "out").exists()


def test_sharded_data_and_a_cache_are_refused_before_the_first_epoch(stored, teacher, tmp_path, capsys):
    make_cache(stored["mmap"], teacher, tmp_path / "cache", CachingOptions(top_k=4, cpu=True))
    both = f"{stored['mmap']}:{stored['mmap']}"
    hybrid = ("--task", "kd_translation", "--distilled", f"{stored['cached']}:{stored['cached']}")
    for criterion in (("--criterion", "kd_word"), ("--criterion", "kd_hybrid", *hybrid)):
        _, task, *_ = build(both, *criterion, "--teacher-cache", tmp_path / "cache")
        with pytest.raises(SystemExit):
            task.load_dataset("train")
        assert "names 2 data-bins" in (error := capsys.readouterr().err) and "fairseq-kd mix" in error


def test_sharded_data_and_a_teacher_that_runs_train_on_one_after_the_other(stored, teacher):
    both = f"{stored['mmap']}:{stored['mmap']}"
    losses, trainer = losses_of_training(both, "--criterion", "kd_word", "--teacher", teacher, updates=1)
    second = trainer.get_train_iterator(2).next_epoch_itr(shuffle=True)
    trainer.train_step([next(second)])
    assert len(losses) == 2 and all(torch.tensor(losses).isfinite())


def test_several_checkpoints_or_caches_are_refused_where_one_is_needed(teacher, tmp_path, capsys):
    both = f"{teacher}:{teacher}"
    assert_refused(["compact", both, "--out", str(tmp_path / "out")], capsys, "names 2 checkpoints joined by ':'")
    assert_refused(["verify-cache", f"{tmp_path}/a:{tmp_path}/b"], capsys, "names 2 caches")


def test_a_folder_whose_own_name_holds_a_colon_is_refused(stored, teacher, text, tmp_path, capsys):
    shutil.copytree(stored["mmap"], tmp_path / "de:en")
    mixing = commands(tmp_path / "de:en", teacher, text, tmp_path / "out")["mix"]
    assert_refused(mixing, capsys, "de:en", "Rename the folder")
    for words in (
        ["mix", str(stored["mmap"]), "--times", "1"],
        ["noise", "--data-bin", str(stored["mmap"]), "--delete", "0.1", "--level", "subword"],
        ["decode", str(stored["mmap"]), "--teacher", str(teacher), "--cpu"],
        ["prepare", "text", "--raw", str(text), "-s", "qaa", "-t", "qab"],
        ["study", "plan", "quick"],
    ):
        assert_refused([*words, "--out", str(tmp_path / "new:one")], capsys, "new:one", "Give a path without it")
    assert sorted(os.listdir(tmp_path)) == ["de:en"]


def test_an_ensemble_is_taken_where_it_was(stored, teacher, tmp_path):
    options = DecodeOptions(subset="valid", backend="fairseq", strategy="greedy", max_len_b=8, cpu=True)
    for name, paths in (("one", str(teacher)), ("two", f"{teacher}:{teacher}")):
        decode(stored["mmap"], paths, tmp_path / name, options)
    assert sentences(tmp_path / "one", "valid") == sentences(tmp_path / "two", "valid")


def test_an_evaluation_set_that_is_not_read_is_refused_and_not_left_out(stored, tmp_path, capsys):
    folder = tmp_path / "data-bin"
    shutil.copytree(stored["mmap"], folder)
    for path in folder.glob("test.*"):
        path.unlink()
    for lang in LANGUAGES:
        shutil.copy(stored["raw"] / f"test.qaa-qab.{lang}", folder)
    for words in (["noise", "--data-bin", folder, "--delete", "0.2", "--level", "subword"], ["mix", folder, folder]):
        assert_refused([*map(str, words), "--out", str(tmp_path / "out")], capsys, "test.qaa-qab.qaa", "not binarised")
        assert not (tmp_path / "out").exists()


def test_the_subset_that_a_training_loads_is_the_one_that_is_looked_at(stored, unequal, teacher, tmp_path, capsys):
    folder = tmp_path / "data-bin"
    shutil.copytree(stored["mmap"], folder)
    for path in unequal.glob("valid.*"):
        shutil.copy(path, folder / path.name)  # damaged, and not used
        shutil.copy(path, folder / path.name.replace("valid", "dev"))
    _, task, *_ = build(folder, "--criterion", "kd_word", "--teacher", teacher, "--valid-subset", "dev")
    task.load_dataset("train")
    with pytest.raises(SystemExit):
        task.load_dataset("dev")
    assert "11 sentences in dev.qaa-qab.qaa and 10 in dev.qaa-qab.qab" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"\x93garbage\n", b"word without a count\n", b""])
def test_a_file_that_is_no_dictionary_is_one_error(tmp_path, content):
    """fairseq raises a plain Exception for text that is not UTF-8, and a ValueError for other lines."""
    from fairseq_kd.artifacts.data_bin_check import read_dictionary

    (tmp_path / "dict.de.txt").write_bytes(content)
    if not content:
        assert len(read_dictionary(tmp_path / "dict.de.txt")) == 4  # the symbols of fairseq alone
        return
    with pytest.raises(KDError, match=r"dict\.de\.txt is not a dictionary of fairseq \(.+\): copy it again"):
        read_dictionary(tmp_path / "dict.de.txt")
