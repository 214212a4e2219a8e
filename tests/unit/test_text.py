import bz2
import gzip
import lzma

import pyarrow
import pytest

from fairseq_kd.cli.main import main
from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus.clean import write_clean_text
from fairseq_kd.corpus.entry import text_files
from fairseq_kd.corpus.prepare_options import PrepareOptions
from fairseq_kd.corpus.text import (
    CleaningRules,
    SubsetFiles,
    count_lines,
    normalise_spaces,
    read_blocks,
    read_lines,
    read_raw_lines,
)


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def read(tmp_path, source, target, training=True, **rules):
    """(pairs kept, report)"""
    files = SubsetFiles("x", write(tmp_path / "x.de", source), write(tmp_path / "x.en", target))
    options = PrepareOptions(rules=CleaningRules(**rules))
    goal = {"x": tmp_path / "clean"}
    report, _ = write_clean_text(files, ("de", "en"), options, goal, "reading", training=training)
    sides = [read_lines(tmp_path / f"clean.{lang}") for lang in ("de", "en")]
    return list(zip(*sides, strict=True)), report


def test_lines_end_at_newlines_only(tmp_path):
    pairs, report = read(tmp_path, "a\u2028b\rc\x0cd\ne\r\n", "1\u00852\n3")
    assert pairs == [("a b c d", "1 2"), ("e", "3")]
    assert report.read == report.kept == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" a \t b\u00a0c ", "a b c"),
        ("\ufeffx\u200by", "x y"),
        ("", ""),
        (" \u3000", ""),
        ("e\u0301 \U0001f600", "e\u0301 \U0001f600"),
    ],
)
def test_normalise_spaces(text, expected):
    assert normalise_spaces(text) == expected


@pytest.mark.parametrize(
    ("source", "target", "counts"),
    [("a\nb\nc\n", "1\n2\n", "3 lines.*2"), ("a\n", "1\n2\n3\n4\n", "1 lines.*4")],
)
def test_unequal_line_counts_are_refused_with_both_counts(tmp_path, source, target, counts):
    with pytest.raises(KDError, match=counts):
        read(tmp_path, source, target)


def test_training_pairs_that_are_damaged_are_dropped_and_counted(tmp_path):
    source = b"good\n\nx\n\xff\xfe\na b c d\na\n"
    target = b"gut\ny\n \nz\n1 2 3 4\n1 2 3\n"
    pairs, report = read(tmp_path, source, target, max_words=3, max_ratio=2.0)
    assert pairs == [("good", "gut")]
    assert (report.read, report.empty, report.bad_utf8, report.too_long, report.uneven_length) == (
        6,
        2,
        1,
        1,
        1,
    )
    assert report.first_lines == {"empty": [2, 3], "bad_utf8": [4], "too_long": [5], "uneven_length": [6]}
    assert "2 empty (lines 2, 3)" in report.describe()


def test_evaluation_pairs_are_never_dropped(tmp_path):
    pairs, report = read(tmp_path, "a\n\nb c d\n", "1\n2\n3\n", training=False, max_words=2)
    assert pairs == [("a", "1"), ("", "2"), ("b c d", "3")]
    assert (report.kept, report.empty, report.too_long) == (3, 1, 1)


def test_bad_utf8_in_an_evaluation_set_is_refused_with_its_line(tmp_path):
    with pytest.raises(KDError, match="line 2 .*not UTF-8"):
        read(tmp_path, b"a\n\xff\n", b"1\n2\n", training=False)


def test_training_set_without_a_usable_pair_is_refused(tmp_path):
    with pytest.raises(KDError, match="no usable pair"):
        read(tmp_path, "\n\n", "a\nb\n")


def zstd(data: bytes) -> bytes:
    return pyarrow.compress(data, codec="zstd", asbytes=True)


COMPRESSIONS = {
    "gz": ("gzip", gzip.compress),
    "xz": ("xz", lzma.compress),
    "bz2": ("bzip2", bz2.compress),
    "zst": ("zstd", zstd),
}


@pytest.mark.parametrize("ending", COMPRESSIONS)
def test_compressed_text_is_read_whatever_its_name_and_damage_is_named(tmp_path, ending):
    name, compress = COMPRESSIONS[ending]
    whole = compress(b"a\nb\n")
    pairs, _ = read(tmp_path, whole, "1\n2\n")
    assert pairs == [("a", "1"), ("b", "2")]
    in_parts, _ = read(tmp_path, compress(b"a\n") + compress(b"b\n"), "1\n2\n")  # as parallel programs write
    assert in_parts == pairs
    with pytest.raises(KDError, match=f"x.de is a damaged {name} file"):
        read(tmp_path, whole[:-6], "1\n2\n")


@pytest.mark.parametrize("ending", COMPRESSIONS)
def test_compressed_files_of_a_corpus_are_found_and_counted(tmp_path, ending):
    _, compress = COMPRESSIONS[ending]
    for stem in ("train", "dev", "test_a", "test_b"):
        for lang in ("de", "en"):
            write(tmp_path / f"{stem}.{lang}.{ending}", compress(f"{stem}\n".encode()))
    files = text_files(tmp_path, "de", "en")
    assert {subset: found.stem for subset, found in files.items()} == {
        "train": "train",
        "valid": "dev",
        "test": "test_a",
        "test1": "test_b",
    }
    assert list(read_raw_lines(files["test1"].target)) == [b"test_b"]
    assert count_lines(files["train"].source) == 1 and list(read_blocks(files["train"].source, 9)) == [b"train\n"]
    with pytest.raises(KDError, match="languages found in .*: de, en"):
        text_files(tmp_path, "de", "fr")


def test_text_that_begins_like_a_compressed_file_is_text(tmp_path):
    pairs, _ = read(tmp_path, "BZh is a sign\nb\n", "1\n2\n")
    assert pairs == [("BZh is a sign", "1"), ("b", "2")]


def test_a_table_of_two_columns_is_named_as_what_it_is(tmp_path, capsys):
    write(tmp_path / "train.tsv", "ein hund\ta dog\n")
    command = ["prepare", "text", "--raw", str(tmp_path), "-s", "de", "-t", "en", "--out", str(tmp_path / "out")]
    assert main(command) == 2
    assert "train.tsv is a table" in capsys.readouterr().err
    command = ["noise", "--prefix", str(tmp_path / "train"), "-s", "de", "-t", "en", "--delete", "0.1"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    assert "cut -f1 train.tsv > train.LANG" in capsys.readouterr().err
