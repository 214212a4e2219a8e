"""Whatever does not fit a cache is one clear error before the first update."""

import json
import shutil

import numpy as np
import pytest
import torch
from helpers import batch, build

from fairseq_kd.artifacts.hashes import sha256_file
from fairseq_kd.cache.format import CacheFormat
from fairseq_kd.cache.make import CachingOptions, make_cache
from fairseq_kd.core.errors import KDError
from fairseq_kd.teacher.cached import CachedSignalSource
from fairseq_kd.teacher.verify import verify_cache


@pytest.fixture(scope="module")
def cache(teacher, data_bin, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache") / "train"
    make_cache(data_bin, teacher, folder, CachingOptions(top_k=4, temperatures=(1.0, 2.0)))
    return folder


@pytest.fixture
def copy(cache, tmp_path):
    return shutil.copytree(cache, tmp_path / "copy")


@pytest.fixture
def task(data_bin):
    """Its datasets are the test's own."""
    _, task, *_ = build(data_bin, "--criterion", "cross_entropy")
    return task


def read(folder, task, sample=None, **options):
    """The signal of a batch of the train set."""
    source = CachedSignalSource(folder, task, **{"temperature": 1.0, **options})
    sample = batch(task, [3, 17]) if sample is None else sample
    return source.signal(sample, sample["target"].ne(1), 1.0)


@pytest.mark.parametrize(
    "fields, message",
    [
        ((0, (1.0,), 10), "--top-k 0: must be from 1 to 10"),
        ((11, (1.0,), 10), "--top-k 11: must be from 1 to 10"),
        ((2, (0.0,), 10), "--temperature 0: must be above 0"),
        ((2, (-1.0,), 10), "--temperature -1: must be above 0"),
        ((2, (float("nan"),), 10), "--temperature nan: must be above 0"),
        ((2, (1.0, 1.0), 10), "--temperature 1 is given twice"),
        ((2, (), 10), "--temperature: give at least one"),
        ((2, (1.0,), 10, "zip"), "--store zip: must be one of compact, float32"),
        ((2, (1.0,), 10, "compact", -1), "--tail-shapes -1: must be from 0"),
        ((2, (1.0,), 10, "compact", 257), "--tail-shapes 257: must be from 0"),
        ((10, (1.0,), 10, "compact", 4), "--tail-shapes 4 has no effect with --top-k 10: all tokens are stored"),
    ],
)
def test_options_out_of_range(fields, message):
    with pytest.raises(KDError, match=message):
        CacheFormat(*fields)


def test_what_cannot_be_cached(teacher, data_bin, tmp_path):
    def make(options, folder=data_bin):
        make_cache(folder, teacher, tmp_path / "c", options)

    with pytest.raises(KDError, match="has no subset 'test7' for qaa-qab"):
        make(CachingOptions(subset="test7"))
    with pytest.raises(KDError, match="--max-tokens 3: the longest sentence has"):
        make(CachingOptions(max_tokens=3))
    with pytest.raises(KDError, match="--max-tokens 0: must be at least 1"):
        make(CachingOptions(max_tokens=0))
    with pytest.raises(KDError, match="is not a folder"):
        make(CachingOptions(), tmp_path / "nowhere")
    with pytest.raises(KDError, match=r"has no dict\.qaa\.txt"):
        make(CachingOptions(), tmp_path)
    assert not (tmp_path / "c").exists()


def test_a_cache_of_another_k_is_not_written_over(cache, teacher, data_bin):
    with pytest.raises(KDError, match="was made with --top-k 4, this command has 5"):
        make_cache(data_bin, teacher, cache, CachingOptions(top_k=5, temperatures=(1.0, 2.0)))


def test_a_folder_that_is_no_cache(task, data_bin, tmp_path):
    with pytest.raises(KDError, match="nowhere does not exist: make it with fairseq-kd cache"):
        read(tmp_path / "nowhere", task)
    with pytest.raises(KDError, match=r"has no manifest\.json, so it is not a teacher cache"):
        read(tmp_path, task)
    with pytest.raises(KDError, match="is not the manifest of a teacher cache"):
        read(data_bin, task)


def test_other_tail_shapes_are_another_cache(cache, teacher, data_bin):
    with pytest.raises(KDError, match="was made with --tail-shapes 64, this command has 8"):
        make_cache(data_bin, teacher, cache, CachingOptions(top_k=4, temperatures=(1.0, 2.0), tail_shapes=8))


@pytest.mark.parametrize("name", ["tail.bin", "shapes.bin", "shape_ids.bin", "gold.bin"])
def test_a_truncated_file(copy, task, name):
    (copy / name).write_bytes((copy / name).read_bytes()[:-2])
    with pytest.raises(KDError, match=rf"{name} has [\d,]+ bytes, its manifest promises"):
        read(copy, task)


def test_a_missing_file(copy, task):
    (copy / "ids.bin").unlink()
    with pytest.raises(KDError, match=r"ids\.bin is missing, its manifest promises"):
        read(copy, task)


@pytest.mark.parametrize("array", ["ids", "delta", "tail", "offsets", "crc", "shape_ids", "shapes", "gold"])
def test_a_flipped_bit(copy, task, array):
    name = f"{array}.bin"
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(KDError, match=f"{name} has sha256 .* its manifest says"):
        read(copy, task)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"format": 4}, "has format 4, this version of fairseq_kd reads formats 1, 2, 3"),
        ({"files": None}, "has no 'files'"),
        ({"tail_shapes": None}, "has no 'tail_shapes'"),
    ],
)
def test_a_manifest_of_another_version_or_changed(copy, task, change, message):
    manifest = json.loads((copy / "manifest.json").read_text()) | change | {"seal": None}  # as older versions wrote it
    (copy / "manifest.json").write_text(json.dumps({k: v for k, v in manifest.items() if v is not None}))
    with pytest.raises(KDError, match=message):
        read(copy, task)


def test_a_temperature_that_was_not_stored(cache, task):
    with pytest.raises(KDError, match=r"temperatures 1, 2, the training asks for 1\.5.*--temperature 1\.5"):
        read(cache, task, temperature=1.5)


def test_another_subset(cache, task):
    with pytest.raises(KDError, match="is of subset 'train', the training reads 'valid'"):
        read(cache, task, subset="valid")


@pytest.mark.parametrize("side", ["source", "target"])
def test_another_dictionary_of_the_same_size(cache, task, side):
    dictionary = task.source_dictionary if side == "source" else task.target_dictionary
    dictionary.symbols[10], dictionary.symbols[11] = dictionary.symbols[11], dictionary.symbols[10]
    with pytest.raises(KDError, match=f"made with another {side} dictionary"):
        read(cache, task)


def test_another_teacher_than_stated(cache, task, teacher, tmp_path):
    assert len(read(cache, task, stated_teacher=teacher)) > 0
    other = shutil.copy(teacher, tmp_path / "other.pt")
    with open(other, "ab") as file:
        file.write(b"x")
    with pytest.raises(KDError, match=r"--teacher .*other\.pt is another checkpoint"):
        read(cache, task, stated_teacher=other)
    with pytest.raises(KDError, match="does not exist"):
        read(cache, task, stated_teacher=tmp_path / "gone.pt")
    with pytest.raises(KDError, match="is another checkpoint"):
        verify_cache(cache, teacher=other, sample=1)


@pytest.mark.parametrize("side, text", [("net_input", "source"), ("target", "target")])
def test_a_noised_sentence_is_named(cache, task, side, text):
    sample = batch(task, [3, 17])
    tokens = sample["net_input"]["src_tokens"] if side == "net_input" else sample["target"]
    tokens[sample["id"].tolist().index(17), tokens.size(1) // 2] += 1
    with pytest.raises(KDError, match=f"the {text} of sentence 17 of subset 'train' differs"):
        read(cache, task, sample)


def test_the_sentence_of_another_number_is_no_match(cache, task):
    sample = batch(task, [3, 17])
    sample["id"] = sample["id"].flip(0)
    with pytest.raises(KDError, match="differs from the one in teacher cache"):
        read(cache, task, sample)


def test_a_corpus_of_another_length(cache, task):
    sample = batch(task, [3, 17])
    dataset = task.dataset("train")
    dataset.tgt_sizes = dataset.tgt_sizes[:-1]
    with pytest.raises(KDError, match="has 399 sentences, teacher cache .* 400"):
        read(cache, task, sample)


def test_a_corpus_with_a_sentence_of_another_length(cache, task):
    sample = batch(task, [3, 17])
    task.dataset("train").tgt_sizes[5] += 1
    with pytest.raises(KDError, match=r"sentence 5 of subset 'train' has \d+ target tokens.*\(1 sentences differ\)"):
        read(cache, task, sample)


def test_a_data_file_that_was_changed(cache, task, data_bin, tmp_path):
    """The source is noised: lengths may be as before, and the first batch may hold none of the changed sentences."""
    sample = batch(task, [3, 17])
    other = shutil.copytree(data_bin, tmp_path / "noised")
    path = other / "train.qaa-qab.qaa.bin"
    tokens = np.fromfile(path, dtype=np.uint16)
    tokens[-2] += 1
    tokens.tofile(path)
    task.cfg.data = str(other)
    with pytest.raises(KDError, match=r"train\.qaa-qab\.qaa\.bin has sha256 .* made from"):
        read(cache, task, sample)
    path.unlink()  # files that are not there are not compared: the sentences are
    assert len(read(cache, task, sample)) == sample["ntokens"]


def test_a_sentence_beyond_the_end(cache, task):
    sample = batch(task, [3, 17])
    sample["id"] = torch.tensor([3, 400])
    with pytest.raises(KDError, match="has sentence 400, teacher cache .* ends at sentence 399"):
        read(cache, task, sample)


def test_data_and_teacher_that_are_no_longer_where_the_cache_was_made(copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    with pytest.raises(KDError, match="--teacher FILE"):
        verify_cache(copy, teacher="/nowhere.pt")
    with pytest.raises(KDError, match="--data-bin FOLDER"):
        verify_cache(copy, data_bin="/nowhere")
    with pytest.raises(KDError, match="--sample 0: must be at least 1"):
        verify_cache(copy, sample=0)
    assert manifest["teacher"]["sha256"] == sha256_file(manifest["teacher"]["path"])
