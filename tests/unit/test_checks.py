"""Checks before an artefact is read: hashes, sealed records, parts, and the files of data-bins without a manifest."""

import hashlib
import json
import os
import time

import pytest
import torch

from fairseq_kd.artifacts import hashes
from fairseq_kd.artifacts.data_bin_check import check_content, check_side, check_the_rest
from fairseq_kd.artifacts.records import (
    MARK,
    DamagedRecord,
    check_part,
    content_size,
    read_part,
    read_record,
    with_hash,
    write_record,
)
from fairseq_kd.core.errors import KDError

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # sha256 of "abc", FIPS 180-2, B.1


def flipped(content: bytes):
    """(position, the content with the lowest bit of that byte changed)."""
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1
        yield position, bytes(damaged)


def test_a_file_is_hashed_once_until_it_changes(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    os.utime(path, (time.time() - 60,) * 2)
    opened, sha256 = [], hashlib.sha256
    monkeypatch.setattr(hashes.hashlib, "sha256", lambda *words: opened.append(path) or sha256(*words))
    assert [hashes.sha256_file(path) for _ in range(3)] == [ABC] * 3 and opened == [path]
    path.write_bytes(b"abd")
    assert hashes.sha256_file(path) == sha256(b"abd").hexdigest()


def test_the_hash_of_a_file_that_was_changed_just_now_is_not_kept(tmp_path):
    """Two changes within one step of the file system's clock look the same."""
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    stamp = path.stat().st_mtime_ns
    assert hashes.sha256_file(path) == ABC
    path.write_bytes(b"abd")
    os.utime(path, ns=(stamp, stamp))
    assert hashes.sha256_file(path) == hashlib.sha256(b"abd").hexdigest()


def test_no_flipped_bit_changes_what_a_sealed_record_says(tmp_path):
    value = {"score": 23.45, "μ": [1, None, True], "nested": {"3": "x"}, "empty": {}}
    path = tmp_path / "record.json"
    write_record(path, value)
    assert read_record(path, "remedy") == value
    whole, refused = path.read_bytes(), 0
    for _, damaged in flipped(whole):
        path.write_bytes(damaged)
        try:
            found = read_record(path, "remedy")
        except DamagedRecord as error:
            assert str(error).startswith(f"{path} is damaged (") and str(error).endswith("): remedy")
            refused += 1
        else:  # the name of the seal was hit
            assert found.items() >= value.items()
    assert refused > 0.9 * len(whole)


def test_a_record_without_a_seal_is_read_and_one_with_a_missing_key_is_not(tmp_path):
    path = tmp_path / "record.json"
    assert read_record(path, "remedy") is None
    path.write_text(json.dumps({"a": 1}))
    assert read_record(path, "remedy", required=("a",)) == {"a": 1}
    for required, content, reason in (
        (("b",), '{"a": 1}', "it has no 'b'"),
        ((), "[1]", "is not an object but a list"),
    ):
        path.write_text(content)
        with pytest.raises(DamagedRecord, match=reason):
            read_record(path, "remedy", required)


def test_a_flipped_bit_in_a_part_is_noticed(tmp_path):
    path, content = tmp_path / "000000.bin", b"some rows"
    path.write_bytes(b"".join(with_hash([content[:4], content[4:]])))
    assert read_part(path) == content and content_size(path) == len(content)
    whole = path.read_bytes()
    for position, damaged in flipped(whole):
        path.write_bytes(damaged)
        if len(content) <= position < len(content) + len(MARK):  # like a part of an older version, of another size
            assert content_size(path) == len(whole)
            continue
        with pytest.raises(KDError, match=r"000000\.bin was damaged"):
            check_part(path)
    path.write_bytes(content)  # as an older version wrote it
    assert read_part(path) == content


SENTENCES = [[4, 5, 2], [6, 2], [2]]


@pytest.fixture(params=["mmap", "lazy"])
def side(request, tmp_path):
    """The path of one side, as fairseq-preprocess writes it in each format."""
    from fairseq.data.indexed_dataset import make_builder

    prefix = tmp_path / "train.qaa-qab.qaa"
    builder = make_builder(f"{prefix}.bin", request.param, vocab_size=7)
    for sentence in SENTENCES:
        builder.add_item(torch.tensor(sentence))
    builder.finalize(f"{prefix}.idx")
    return prefix


def test_a_side_of_fairseq_is_read_and_its_ids_must_be_in_the_dictionary(side):
    check_side(side, dictionary_size=7)
    with pytest.raises(KDError, match="holds the id 6, its dictionary has 6 entries"):
        check_side(side, dictionary_size=6)


def test_every_flipped_bit_of_an_index_is_one_error(side):
    index = side.with_name(f"{side.name}.idx")
    for position, damaged in flipped(index.read_bytes()):
        index.write_bytes(damaged)
        if position < 8:  # it tells the format: refused as another one
            continue
        with pytest.raises(KDError, match=r"train\.qaa-qab\.qaa\.(idx|bin)"):
            check_side(side, dictionary_size=7)


@pytest.mark.parametrize("kind", ["bin", "idx"])
def test_a_file_of_another_length_is_one_error(side, kind):
    path = side.with_name(f"{side.name}.{kind}")
    whole = path.read_bytes()
    for content in (*(whole[:length] for length in range(9, len(whole))), whole + b"\0", whole * 2):
        path.write_bytes(content)
        with pytest.raises(KDError, match=r"train\.qaa-qab\.qaa\.(idx|bin)"):
            check_side(side)
    path.unlink()
    with pytest.raises(KDError, match="is missing or is not a file"):
        check_side(side)


def test_a_data_bin_that_lost_its_manifest_is_refused_and_one_that_never_had_one_is_not(side):
    folder, pair = side.parent, ("qaa", "qab")
    for lang in pair:
        (folder / f"dict.{lang}.txt").write_text("a 1\nb 1\nc 1\n")
    check_content(folder, "train", pair)
    (folder / "dict.qaa.txt").write_text("a 1\nb one\n")
    with pytest.raises(KDError, match=r"dict\.qaa\.txt is not a dictionary of fairseq"):
        check_content(folder, "train", pair)
    (folder / "subword").mkdir()
    with pytest.raises(KDError, match=r"manifest\.json is missing, but the folder subword/"):
        check_content(folder, "train", pair)


def test_files_that_a_manifest_lists_are_compared_before_they_are_taken_over(tmp_path):
    sha256 = hashlib.sha256(b"abc").hexdigest()
    names = ["test1.qaa-qab.qaa.bin", "raw/test.qaa", "train.qaa-qab.qaa.bin", "train.hypotheses.qaa.tsv"]
    write_record(tmp_path / "manifest.json", {"files": dict.fromkeys(names, sha256)})
    (tmp_path / "raw").mkdir()
    for name in names:
        (tmp_path / name).write_bytes(b"abc")
    check_the_rest(tmp_path, "train")
    for name in names[2:]:  # in the replaced subset, or not taken over
        (tmp_path / name).unlink()
    check_the_rest(tmp_path, "train")
    (tmp_path / names[0]).unlink()
    with pytest.raises(KDError, match=r"test1\.qaa-qab\.qaa\.bin is missing although the manifest lists it"):
        check_the_rest(tmp_path, "test")
