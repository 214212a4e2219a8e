import json
import re
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import batch, build

from fairseq_kd.cache.format import CacheFormat, sentence_crcs
from fairseq_kd.cache.make import CachingOptions, make_cache
from fairseq_kd.cache.truncation import describe_truncation
from fairseq_kd.cache.values import encode, rebuild
from fairseq_kd.cli.main import main
from fairseq_kd.core.errors import KDError
from fairseq_kd.inference.device import parse_shard
from fairseq_kd.inference.frozen import load_frozen
from fairseq_kd.loss.signal import SMALLEST_TAIL, DenseSignal
from fairseq_kd.teacher.cached import CachedSignalSource
from fairseq_kd.teacher.verify import verify_cache

TEMPERATURES = (0.5, 1.0, 2.0)
HALVES = torch.tensor([[0.125, 0.5, 0.125, 0.25]]).log()  # k = 2 keeps tokens 1 and 3


@pytest.fixture(scope="module")
def options():
    return CachingOptions(top_k=5, temperatures=TEMPERATURES, max_tokens=700)


@pytest.fixture(scope="module")
def cache(teacher, data_bin, options, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache") / "top5"
    make_cache(data_bin, teacher, folder, options, block_tokens=2000)
    return folder


@pytest.fixture(scope="module")
def task(data_bin):
    _, task, *_ = build(data_bin, "--criterion", "cross_entropy")
    task.load_dataset("train")
    return task


@pytest.fixture(scope="module")
def logits(teacher):
    """The model's own output for a batch, (B, T, V) float64."""
    model = load_frozen(teacher).model
    with torch.no_grad():
        return lambda sample: model(**sample["net_input"])[0].detach().double()


def real(sample):
    return sample["target"].ne(1)  # fairseq's index of padding


def test_a_row_worked_by_hand():
    stored = encode(HALVES, CacheFormat(k=2, temperatures=(1.0, 0.5), types=4))
    assert stored.ids.tolist() == [[1, 3]]
    assert stored.delta[0] == pytest.approx([0, 0.693147])
    # 1/4 at T = 1. At T = 1/2 the squares 16, 4, 1, 1 of 22: 2/22
    assert np.exp(stored.tail[0]) == pytest.approx([0.25, 2 / 22])
    tail = torch.tensor(stored.tail)
    for column, temperature, expected in ((0, 1.0, [0.5, 0.25, 0.25]), (1, 0.5, [16 / 22, 4 / 22, 2 / 22])):
        lprobs, rest = rebuild(torch.tensor(stored.delta), tail[:, column], temperature)
        assert [*lprobs[0].exp().tolist(), rest.exp().item()] == pytest.approx(expected)


@pytest.mark.parametrize("tail", [-1e-5, -0.5, -16.0, -60000.0])
def test_the_mass_is_exact_and_finite_however_large_or_small_the_tail(tail):
    delta = torch.tensor([[0.0, 3.0, 60000.0]], dtype=torch.float16)
    lprobs, rest = rebuild(delta, torch.tensor([tail], dtype=torch.float16), 1.0)
    assert lprobs.isfinite().all() and rest.item() >= SMALLEST_TAIL
    assert lprobs.exp().sum().item() + rest.exp().item() == pytest.approx(1, abs=1e-6)


def test_an_impossible_type_is_stored_as_a_number():
    stored = encode(torch.tensor([[0.0, float("-inf"), float("-inf")]]), CacheFormat(2, (1.0,), 3))
    assert np.isfinite(stored.delta.astype(np.float16)).all()
    assert stored.tail[0, 0] == SMALLEST_TAIL


@pytest.mark.parametrize(
    "fields, size",
    [
        ((8, (1.0, 2.0, 4.0), 32000, "compact"), 38),  # 8 · (2 + 2) + 3 · 2
        ((16, (1.0, 2.0, 4.0), 65536, "compact"), 70),
        ((8, (1.0,), 65537, "compact"), 50),  # 8 · (4 + 2) + 2
        ((8, (1.0,), 32000, "float32"), 52),  # 8 · (2 + 4) + 4
        ((8, (1.0, 2.0, 4.0), 32000, "compact", 64), 39),
        ((8, (1.0, 2.0, 4.0), 32000, "compact", 64, True), 43),
    ],
)
def test_bytes_per_token(fields, size):
    assert CacheFormat(*fields).bytes_per_token() == size


def test_a_crc_is_that_of_the_ids_without_padding_on_either_side():
    expected = [zlib.crc32(struct.pack("<3i", 5, 70000, 2)), zlib.crc32(struct.pack("<i", 2))]
    for rows in ([[1, 5, 70000, 2], [1, 1, 1, 2]], [[5, 70000, 2, 1], [2, 1, 1, 1]]):
        assert sentence_crcs(torch.tensor(rows), padding=1).tolist() == expected


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_cache_says_what_the_teacher_says_up_to_rounding(cache, task, logits, temperature):
    sample = batch(task, [3, 17, 255, 0])
    keep = real(sample)
    found = CachedSignalSource(cache, task, temperature=temperature).signal(sample, keep, temperature)
    probs = torch.softmax(logits(sample) / temperature, dim=-1)[keep]  # (N, V)
    top = probs.sort(dim=-1, descending=True).values[:, :5]
    assert (found.lprobs.exp() - top).abs().max() < 1e-3
    assert (probs.gather(-1, found.ids) - top).abs().max() < 1e-6
    assert (found.tail.exp() - (1 - top.sum(-1))).abs().max() < 1e-3
    assert (found.buckets().exp().sum(-1) - 1).abs().max() < 1e-6
    assert len(found) == sample["ntokens"]


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_tail_shapes_bring_the_distribution_nearer_to_the_teachers(cache, task, logits, temperature):
    sample = batch(task, range(40))
    found = CachedSignalSource(cache, task, temperature=temperature).signal(sample, real(sample), temperature)
    probs = torch.softmax(logits(sample) / temperature, dim=-1)[real(sample)]  # (N, V)
    rows = found.rows().exp()
    assert (rows.sum(-1) - 1).abs().max() < 1e-5
    assert torch.allclose(rows.gather(-1, found.ids), found.lprobs.exp())
    even = found.tail.exp().unsqueeze(-1) / (probs.size(-1) - 5) * torch.ones_like(rows)
    even.scatter_(-1, found.ids, found.lprobs.exp())
    assert (rows - probs).abs().sum() < 0.5 * (even - probs).abs().sum()


def test_a_float32_store_is_exact_to_a_millionth(teacher, data_bin, task, logits, tmp_path):
    make_cache(data_bin, teacher, tmp_path / "c", CachingOptions(top_k=9, temperatures=(2.0,), store="float32"))
    sample = batch(task, [9, 1, 5])
    found = CachedSignalSource(tmp_path / "c", task, temperature=2.0).signal(sample, real(sample), 2.0)
    probs = torch.softmax(logits(sample) / 2, dim=-1)[real(sample)]
    assert (found.lprobs.exp() - probs.gather(-1, found.ids)).abs().max() < 1e-6
    assert (found.tail.exp() - (1 - probs.gather(-1, found.ids).sum(-1))).abs().max() < 1e-6


def test_with_all_types_stored_the_whole_distribution_comes_back(teacher, data_bin, task, logits, tmp_path):
    k = len(task.target_dictionary)
    make_cache(data_bin, teacher, tmp_path / "c", CachingOptions(top_k=k, temperatures=(2.0,), store="float32"))
    sample = batch(task, [9, 1, 5])
    found = CachedSignalSource(tmp_path / "c", task, temperature=2.0).signal(sample, real(sample), 2.0)
    assert isinstance(found, DenseSignal) and found.features.shape == (sample["ntokens"], k)
    expected = torch.log_softmax(logits(sample), dim=-1)[real(sample)]
    assert (found.features - expected).abs().max() < 1e-5  # at temperature 1
    assert (found.rows().exp() - torch.softmax(logits(sample) / 2, dim=-1)[real(sample)]).abs().max() < 1e-6


def test_a_sentence_has_the_same_rows_in_every_batch(cache, task):
    source = CachedSignalSource(cache, task, temperature=1.0)
    alone = {}
    for index in (4, 200, 31):
        sample = batch(task, [index])
        alone[index] = source.signal(sample, real(sample), 1.0)
    for order in ([31, 4, 200], [200, 31], [4, 4, 31]):
        sample = batch(task, order)
        together = source.signal(sample, real(sample), 1.0)
        assert torch.equal(together.ids, torch.cat([alone[i].ids for i in sample["id"].tolist()]))
        assert torch.equal(together.tail, torch.cat([alone[i].tail for i in sample["id"].tolist()]))


def test_positions_that_are_left_out_take_no_row(cache, task):
    source = CachedSignalSource(cache, task, temperature=1.0)
    sample = batch(task, [4, 200, 31])
    keep = real(sample)
    without_prefix = keep.clone()
    without_prefix[:, :2] = False  # --ignore-prefix-size 2
    rows = source.signal(sample, keep, 1.0)
    fewer = source.signal(sample, without_prefix, 1.0)
    assert torch.equal(fewer.lprobs, rows.lprobs[without_prefix[keep]])


def test_blocks_and_interruptions_by_the_real_teacher_leave_no_trace(teacher, data_bin, options, cache, tmp_path):
    from fairseq_kd.cache.teacher_rows import TeacherRows

    blocks, compute = [], TeacherRows.__call__

    def stop_in_the_third(self, start, end, advance, shapes):
        blocks.append(start)
        if len(blocks) == 3:
            raise KeyboardInterrupt
        return compute(self, start, end, advance, shapes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TeacherRows, "__call__", stop_in_the_third)
        with pytest.raises(KeyboardInterrupt):
            make_cache(data_bin, teacher, tmp_path / "c", options, block_tokens=2000)
    make_cache(data_bin, teacher, tmp_path / "c", options, shard=(1, 2), block_tokens=2000)
    make_cache(data_bin, teacher, tmp_path / "c", options, shard=(0, 2), block_tokens=2000)
    names = sorted(path.name for path in cache.iterdir())
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == names
    for name in names:
        assert (tmp_path / "c" / name).read_bytes() == (cache / name).read_bytes(), name


def test_the_command_makes_a_cache_and_verifies_it(teacher, data_bin, tmp_path, capsys):
    out = str(tmp_path / "c")
    words = ["cache", str(data_bin), "--teacher", str(teacher), "--subset", "valid", "--out", out, "--cpu"]
    assert main([*words, "--top-k", "3", "--shard", "0/1"]) == 0
    said = capsys.readouterr()
    assert "30 sentences, 19 bytes per token" in said.out and f"--criterion kd_word --teacher-cache {out}" in said.out
    warning = (
        r"at temperature 1, \d\d% of the teacher's mass is outside of the 3 entries"  # the tiny teacher is nearly flat
    )
    assert re.search(warning, said.err)
    assert main([*words, "--top-k", "3"]) == 0
    assert "is complete" in capsys.readouterr().out
    assert main(["verify-cache", out, "--sample", "10", "--cpu"]) == 0
    assert "10 sentences computed again" in capsys.readouterr().out


def test_a_training_is_told_when_a_cache_leaves_out_most_of_the_teacher_at_its_temperature(cache, task, caplog):
    """The masses are those of the manifest; half of the mass is no warning yet."""
    CachedSignalSource(cache, task, temperature=2.0)
    (said,) = caplog.messages
    assert str(cache) in said and "at temperature 2, " in said and "outside of the 5 entries" in said
    manifest = {"k": 5, "temperatures": [1.0, 2.0], "mean_tail_mass": [0.5, 0.51], "tail_shapes": 0}
    assert describe_truncation(manifest, 1) is None
    assert "at temperature 2, 51% of the teacher's mass" in describe_truncation(manifest, 2)
    assert "nothing about it but its sum. " in describe_truncation(manifest, 2)
    assert "its sum and one of 64 shapes. " in describe_truncation(manifest | {"tail_shapes": 64}, 2)


def test_a_cache_that_deviates_from_its_teacher_is_found(teacher, data_bin, cache, tmp_path):
    copy = shutil.copytree(cache, tmp_path / "c")
    delta = np.fromfile(copy / "delta.bin", dtype="<f2")
    (delta + np.float16(1) * (delta > 0)).tofile(copy / "delta.bin")  # sharper than the teacher
    rehash(copy, "delta.bin")
    with pytest.raises(KDError, match=r"deviates from .* in probability \(sentence \d+.*explains at most 0.01"):
        verify_cache(copy, sample=20)
    assert verify_cache(cache, sample=20).largest < 0.001


@pytest.mark.parametrize("change", [lambda ids: (ids + 1) % 64, lambda ids: ids + 64])
def test_tail_shapes_that_are_not_those_of_the_tokens_are_found(cache, tmp_path, change):
    copy = shutil.copytree(cache, tmp_path / "c")
    shape_ids = np.fromfile(copy / "shape_ids.bin", dtype=np.uint8)
    change(shape_ids).astype(np.uint8).tofile(copy / "shape_ids.bin")
    rehash(copy, "shape_ids.bin")
    with pytest.raises(KDError, match=r"deviates from .* by [01]\."):
        verify_cache(copy, sample=20)


def test_a_cache_of_the_first_format_is_read_and_has_one_bucket(teacher, data_bin, task, tmp_path):
    options = CachingOptions(top_k=5, tail_shapes=0)
    make_cache(data_bin, teacher, tmp_path / "c", options)
    assert not (tmp_path / "c" / "shapes.bin").exists()
    manifest = json.loads((tmp_path / "c" / "manifest.json").read_text()) | {"format": 1}
    del manifest["tail_shapes"], manifest["seal"]
    (tmp_path / "c" / "manifest.json").write_text(json.dumps(manifest))
    sample = batch(task, [3, 17])
    found = CachedSignalSource(tmp_path / "c", task, temperature=1.0).signal(sample, real(sample), 1.0)
    assert found.shapes is None and found.shape_ids is None and len(found) == sample["ntokens"]
    assert verify_cache(tmp_path / "c", sample=5).largest < 0.001
    with pytest.raises(KDError, match="was made with format 1, this command has 3"):
        make_cache(data_bin, teacher, tmp_path / "c", options)


def test_one_answer_that_is_no_number_fails_the_verification(cache, monkeypatch):
    from fairseq_kd.teacher import verify as cache_check

    true, calls = cache_check._deviations, []

    def broken(*arguments):
        calls.append(true(*arguments))
        return calls[-1].clone().fill_(float("nan")) if len(calls) == 1 else calls[-1]

    monkeypatch.setattr(cache_check, "_deviations", broken)
    with pytest.raises(KDError, match="deviates from"):
        verify_cache(cache, sample=20)
    assert len(calls) > 1


def test_a_teacher_whose_answers_are_not_finite_is_not_cached(teacher, data_bin, tmp_path, monkeypatch):
    from fairseq_kd.loss.signal import DenseSignal

    monkeypatch.setattr(DenseSignal, "rows", lambda self, *_: torch.full((len(self.features), 120), float("nan")))
    with pytest.raises(KDError, match="not finite"):
        make_cache(data_bin, teacher, tmp_path / "c", CachingOptions(cpu=True))
    assert not list(tmp_path.rglob("*.bin"))


def rehash(folder: Path, name: str) -> None:
    from fairseq_kd.artifacts.hashes import sha256_file

    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = sha256_file(folder / name)
    del manifest["seal"]
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "text, expected", [("0/1", (0, 1)), ("3/4", (3, 4)), ("4/4", None), ("-1/4", None), ("1", None), ("a/b", None)]
)
def test_a_shard_is_i_of_n_from_0(text, expected):
    if expected is None:
        with pytest.raises(KDError, match=f"--shard {text}: give I/N"):
            parse_shard(text)
    else:
        assert parse_shard(text) == expected


def test_under_torchrun_the_shard_is_the_rank(monkeypatch):
    assert parse_shard(None) == (0, 1)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert parse_shard(None) == (2, 8)
    assert parse_shard("1/4") == (1, 4)
