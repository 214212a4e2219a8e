"""DP-KD (--kd-partition) from two caches: one of the teacher, one of the student's start."""

import copy
import json
import shutil

import numpy as np
import pytest
import torch
from criterion_helpers import build_with
from helpers import batch, write_variant

from fairseq_kd.artifacts.hashes import sha256_file
from fairseq_kd.cache.make import CachingOptions, make_cache
from fairseq_kd.core.errors import KDError
from fairseq_kd.criterions.on_policy_config import OnPolicyConfig, check_word_options
from fairseq_kd.criterions.source import training_source
from fairseq_kd.loss.partition import chosen, prefers_first
from fairseq_kd.loss.signal import DenseSignal, TopKSignal
from fairseq_kd.teacher.cached import CachedSignalSource
from fairseq_kd.teacher.cached_partition import CachedPartitionSource

DENSE = "dense"


@pytest.fixture(scope="module")
def networks(teacher, tmp_path_factory):
    """A teacher, a start, and a network that gives every token the same probability."""
    folder = tmp_path_factory.mktemp("networks")
    write_variant(teacher, folder / "start.pt", noise=0.05, updates=1)
    state = torch.load(teacher)
    for name in ("encoder.embed_tokens", "decoder.embed_tokens", "decoder.output_projection"):
        state["model"][f"{name}.weight"].zero_()
    torch.save(state, folder / "uniform.pt")
    return {"teacher": teacher, "start": folder / "start.pt", "uniform": folder / "uniform.pt"}


@pytest.fixture(scope="module")
def task(data_bin):
    return build_with(data_bin, kd_weight=0.0)[1]


@pytest.fixture(scope="module")
def caches(data_bin, networks, task, tmp_path_factory):
    """(network, k) -> folder of its cache; made when it is asked for first."""
    folder = tmp_path_factory.mktemp("caches")

    def cache(name, k=DENSE):
        if not (made := folder / f"{name}-{k}").exists():
            size, shapes = (len(task.target_dictionary), 0) if k == DENSE else (k, 3)
            how = {"store": "float32", "temperatures": (1.0, 2.0), "tail_shapes": shapes, "cpu": True}
            make_cache(data_bin, networks[name], made, CachingOptions(top_k=size, **how))
        return made

    return cache


def computed(data_bin, **options):
    """(logging output, gradient of all parameters) of one batch."""
    _, task, model, criterion = build_with(data_bin, dropout=0.0, **options)
    loss, _, logged = criterion(model, batch(task, range(12)))
    loss.backward()
    return logged, torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def signal(names, probs, shapes=None, shape_ids=None) -> TopKSignal:
    probs = torch.tensor(probs)
    return TopKSignal(torch.tensor(names), probs.log(), (1 - probs.sum(dim=1)).log(), shapes, shape_ids)


def test_the_rows_of_the_chosen_signal_are_unchanged():
    first = signal([[0, 1], [2, 0]], [[0.6, 0.2], [0.5, 0.1]], torch.zeros(2, 4), torch.tensor([1, 0]))
    second = signal([[3, 2], [1, 3]], [[0.4, 0.3], [0.7, 0.2]], torch.ones(3, 4), torch.tensor([2, 1]))
    found = chosen(torch.tensor([True, False]), first, second)
    assert found.ids.tolist() == [[0, 1], [1, 3]]
    torch.testing.assert_close(found.lprobs.exp(), torch.tensor([[0.6, 0.2], [0.7, 0.2]]))
    torch.testing.assert_close(found.tail.exp(), torch.tensor([0.2, 0.1]))
    # the shapes of the second follow the two of the first
    assert found.shape_ids.tolist() == [1, 3] and found.shapes.sum(dim=1).tolist() == [0, 0, 4, 4, 4]
    dense = [DenseSignal(torch.tensor(rows).log(), None, 2.0) for rows in ([[0.9, 0.1]] * 2, [[0.2, 0.8]] * 2)]
    found = chosen(torch.tensor([False, True]), *dense)
    torch.testing.assert_close(found.features.exp(), torch.tensor([[0.2, 0.8], [0.9, 0.1]]))
    assert found.temperature == 2


@pytest.mark.parametrize(
    ("per", "expected"),
    [
        # 0.3 > 0.2; 0.1 < 0.3; equal; 0.4 > 0.3
        ("token", [True, False, True, True]),
        # products: 0.03 < 0.06; 0.08 > 0.06
        ("sentence", [False, False, True, True]),
    ],
)
def test_the_choice_by_hand(per, expected):
    values = torch.tensor([[0.3, 0.2], [0.1, 0.3], [0.2, 0.2], [0.4, 0.3]]).log()
    assert prefers_first(values, torch.ones(2, 2, dtype=torch.bool), per).tolist() == expected


@pytest.mark.parametrize(
    "options",
    [
        {"kd_partition": "supervised", "teacher_temperature": 2.0, "student_temperature": 2.0},
        {"kd_partition": "unsupervised", "kd_partition_per": "sentence"},
    ],
)
def test_caches_of_all_types_are_the_running_networks(data_bin, networks, caches, options):
    running = computed(data_bin, teacher=networks["teacher"], kd_start=networks["start"], **options)
    folders = {"teacher_cache": caches("teacher"), "kd_start_cache": caches("start")}
    cached = computed(data_bin, kd_start=networks["start"], **folders, **options)
    assert 0 < running[0]["from_start"] < running[0]["kd_tokens"]
    for name in ("from_teacher", "from_start", "teacher_tokens"):
        assert cached[0][name] == running[0][name]
    assert cached[0]["kd_loss"].item() == pytest.approx(running[0]["kd_loss"].item(), rel=1e-5)
    torch.testing.assert_close(cached[1], running[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("k", [8, DENSE])
def test_with_all_tokens_to_one_cache_the_training_is_kd_word_with_it(data_bin, caches, k):
    """A uniform distribution has the smallest largest probability."""
    expected = computed(data_bin, teacher_cache=caches("teacher", k))
    for names, share in ((("teacher", "uniform"), 1), (("uniform", "teacher"), 0)):
        folders = {"teacher_cache": caches(names[0], k), "kd_start_cache": caches(names[1], k)}
        found = computed(data_bin, kd_partition="unsupervised", **folders)
        assert found[0]["from_teacher"] == share * found[0]["kd_tokens"]
        assert found[0]["kd_loss"].item() == pytest.approx(expected[0]["kd_loss"].item(), rel=1e-6)
        torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-5)


def partition(caches, task, kind, *pairs, temperature=1.0):
    sources = [CachedSignalSource(caches(*pair), task, temperature=temperature) for pair in pairs]
    return CachedPartitionSource(*sources, kind, "token")


def test_the_gold_tokens_decide_also_where_they_are_not_stored(caches, task):
    """With k = 8 many gold tokens are in the tail; gold.bin has their probability."""
    sample = batch(task, range(20))
    gold = sample["target"][keep := sample["target"].ne(task.target_dictionary.pad())]
    some, every = (partition(caches, task, "supervised", ("teacher", k), ("start", k)) for k in (8, DENSE))
    for source in (some, every):
        assert len(found := source.request(sample, keep, 1.0)()) == len(gold) == source.tokens
        if source is some:
            assert (found.ids != gold.unsqueeze(1)).all(dim=1).any()
    assert some.sums == every.sums and 0 < some.sums["from_start"] < len(gold)


def changed(folder, copy, change):
    """A copy of a cache with another manifest."""
    shutil.copytree(folder, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    change(copy, manifest)
    del manifest["seal"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


def as_format_2(folder, manifest):
    (folder / "gold.bin").unlink()
    del manifest["files"]["gold.bin"], manifest["dtypes"]["gold"]
    manifest["format"] = 2


def of_another_sentence(folder, manifest):
    crc = np.fromfile(folder / "crc.bin", dtype="<u4")
    crc[7] += 1
    crc.tofile(folder / "crc.bin")
    manifest["files"]["crc.bin"] = sha256_file(folder / "crc.bin")


def test_caches_that_do_not_fit_are_errors(data_bin, networks, caches, task, tmp_path):
    def error(start, kind="supervised", teacher=None, temperature=1.0):
        sources = [CachedSignalSource(folder, task, temperature=temperature) for folder in
                   (teacher or caches("teacher", 8), start)]  # fmt: skip
        with pytest.raises(KDError) as found:
            CachedPartitionSource(*sources, kind, "token")
        return str(found.value)

    older = changed(caches("start", 8), tmp_path / "older", as_format_2)
    assert "older has format 2, which stores no log-probabilities of the gold tokens" in error(older)
    assert partition(lambda *_: older, task, "unsupervised", (), ())  # these do not need them
    assert "do not store the same number of tokens" in error(caches("start"))
    other = changed(caches("start", 8), tmp_path / "other", of_another_sentence)
    assert "are not of the same data (other words in sentence 3, 1 sentences differ)" in error(other)
    options = CachingOptions(top_k=8, temperatures=(2.0,), tail_shapes=3, cpu=True, store="float32")
    make_cache(data_bin, networks["start"], tmp_path / "two", options)
    found = error(tmp_path / "two", "unsupervised", tmp_path / "two", temperature=2.0)
    assert "two has no values at temperature 1, at which --kd-partition unsupervised compares the two" in found


def test_the_cache_of_the_start_is_compared_with_the_start(data_bin, networks, caches):
    folders = {"teacher_cache": caches("teacher", 8), "kd_start_cache": caches("start", 8)}
    _, task, _, criterion = build_with(data_bin, kd_partition="unsupervised", **folders)

    def opened(option, path):
        cfg = copy.copy(criterion.cfg)
        setattr(cfg, option, str(path))
        return training_source(cfg, task, None)

    for option in ("kd_start", "finetune_from_model"):
        assert opened(option, networks["start"]).sums.keys() == {"from_teacher", "from_start"}
        named = f"--{option.replace('_', '-')}"
        with pytest.raises(KDError, match=rf"\(--kd-start-cache\) was made from .*, {named} .* is another checkpoint"):
            opened(option, networks["teacher"])
    with pytest.raises(KDError, match=r"--kd-start none\.pt does not exist"):
        opened("kd_start", "none.pt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kd_partition": "none"}, "--kd-start-cache s has no effect without --kd-partition"),
        ({"teacher_cache": None, "teacher": "t.pt"}, "--kd-start-cache s needs --teacher-cache"),
        ({"teacher_cache": "c:d"}, "needs one cache of the teacher, found c:d"),
        ({"kd_start_cache": "s:t"}, "names 2 caches"),
        ({"kd_start_cache": None}, "needs a teacher that runs, or two caches"),
        ({"teacher": "t.pt", "kd_valid": True}, "--kd-valid cannot go with --kd-start-cache"),
        ({"kd_weight": 0.0}, "no effect with --kd-weight 0"),
        ({"on_policy_rate": 0.5, "kd_partition": "unsupervised"}, "needs a teacher that runs"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_are_errors(options, message):
    defaults = {"teacher_cache": "c", "kd_start_cache": "s", "kd_partition": "supervised", "sentence_avg": False}
    defaults |= {"finetune_from_model": None}
    check_word_options(OnPolicyConfig(**defaults))
    with pytest.raises(KDError, match=message.replace(".", r"\.")):
        check_word_options(OnPolicyConfig(**(defaults | options)))


def test_a_schedule_of_caches_with_the_cache_of_the_start(data_bin, caches):
    """The tokens of the teacher of the present part, and of the same start."""
    start = {"kd_partition": "unsupervised", "kd_start_cache": caches("start", 8)}
    one, other = caches("teacher", 8), caches("uniform", 8)
    _, task, model, criterion = build_with(data_bin, dropout=0.0, teacher_schedule=f"{one}@1,{other}", **start)
    for update, folder in enumerate((one, other)):
        criterion.calls.update_num = update
        *_, found = criterion(model, batch(task, range(12)))
        expected = computed(data_bin, teacher_cache=folder, **start)[0]
        assert found["kd_loss"].item() == expected["kd_loss"].item()
        assert found["from_teacher"] == expected["from_teacher"]
    assert found["from_teacher"] == 0
