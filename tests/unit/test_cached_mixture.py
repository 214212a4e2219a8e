"""Caches of the mixture of several teachers, and the mixture of several caches."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from helpers import batch, build, losses_of_training, with_variants

from fairseq_kd.cache.make import CachingOptions, make_cache
from fairseq_kd.cache.reader import CacheReader
from fairseq_kd.cache.teacher_rows import TeacherRows
from fairseq_kd.cli.main import main
from fairseq_kd.core.errors import KDError
from fairseq_kd.loss.mixture import MixtureSignal
from fairseq_kd.loss.rebuilt import RebuiltMixture
from fairseq_kd.loss.signal import DenseSignal, TopKSignal
from fairseq_kd.loss.weights import Weighting, read_weighting
from fairseq_kd.teacher.cached import CachedSignalSource
from fairseq_kd.teacher.cached_mixture import CachedMixtureSource, open_caches
from fairseq_kd.teacher.verify import verify_cache

KD = ("--criterion", "kd_word", "--label-smoothing", "0.1", "--kd-weight", "0.6", "--dropout", "0.0")
VALID = CachingOptions("valid", top_k=5, temperatures=(1.0, 2.0), cpu=True, tail_shapes=4)


@pytest.fixture(scope="module")
def teachers(teacher, tmp_path_factory):
    return with_variants(teacher, tmp_path_factory.mktemp("teachers"), 0.05)


@pytest.fixture(scope="module")
def task(data_bin):
    _, task, *_ = build(data_bin, "--criterion", "cross_entropy")
    task.load_dataset("train")
    task.load_dataset("valid")
    return task


def joined(*paths) -> str:
    return ":".join(map(str, paths))


def content(folder) -> dict:
    return {path.name: path.read_bytes() for path in folder.glob("*.bin")}


@pytest.fixture(scope="module")
def mixed(data_bin, teachers, tmp_path_factory):
    """An adaptive mixture of three teachers."""
    folder = tmp_path_factory.mktemp("mixed") / "cache"
    make_cache(data_bin, joined(*teachers), folder, VALID, weighting=Weighting("adaptive"), block_tokens=200)
    return folder


def test_gold_is_the_log_probability_of_the_gold_token(data_bin, teacher, task, tmp_path):
    """Against the network of fairseq itself; the values are those of a whole softmax."""
    from fairseq_kd.inference.frozen import load_frozen

    make_cache(data_bin, teacher, tmp_path / "c", VALID)
    sample = batch(task, [3, 17, 0], "valid")
    keep = sample["target"].ne(1)
    source = CachedSignalSource(tmp_path / "c", task, temperature=2.0, subset="valid")
    signal, gold = source.request_with_gold(sample, keep, 2.0)()
    with torch.no_grad():
        logits = load_frozen(teacher).model(**sample["net_input"])[0].double()
    expected = torch.log_softmax(logits, dim=-1).gather(2, sample["target"].unsqueeze(2)).squeeze(2)[keep]
    torch.testing.assert_close(gold.double(), expected, rtol=0, atol=1e-5)
    assert torch.equal(signal.lprobs, source.signal(sample, keep, 2.0).lprobs)


def test_three_identical_teachers_are_one(data_bin, teacher, tmp_path):
    copy = shutil.copy(teacher, tmp_path / "copy.pt")
    make_cache(data_bin, teacher, tmp_path / "one", VALID)
    make_cache(data_bin, joined(teacher, copy, teacher), tmp_path / "three", VALID)
    one, three = (CacheReader(tmp_path / name) for name in ("one", "three"))
    rows = np.arange(one.manifest["tokens"])
    one, three = one.rows(rows), three.rows(rows)
    ties = np.abs(np.diff(one.delta.astype(np.float32), axis=1)).min(axis=1) < 1e-3
    assert (one.ids[~ties] == three.ids[~ties]).all() and ties.mean() < 0.5
    for name in ("delta", "tail"):
        first, second = getattr(one, name), getattr(three, name)
        step = np.spacing(np.abs(first)) + np.float32(2e-6)  # of the stored type, and of a log-probability in float32
        assert (np.abs(first.astype(np.float32) - second.astype(np.float32)) <= step).all(), name
    np.testing.assert_allclose(one.gold, three.gold, atol=1e-5)


def test_the_order_of_the_teachers_changes_nothing(data_bin, teachers, mixed, tmp_path):
    a, b, c = teachers
    make_cache(data_bin, joined(c, a, b), tmp_path / "c", VALID, weighting=Weighting("adaptive"), block_tokens=200)
    assert content(tmp_path / "c") == content(mixed)
    weights = [read_weighting(text, 3) for text in ("1:2:5", "5:1:2")]
    for name, order, weighting in zip("de", ((a, b, c), (c, a, b)), weights, strict=True):
        make_cache(data_bin, joined(*order), tmp_path / name, VALID, weighting=weighting)
    assert content(tmp_path / "d") == content(tmp_path / "e") != content(mixed)


def test_the_manifest_names_the_teachers_and_the_weights(mixed, teachers, data_bin, tmp_path):
    found = CacheReader(mixed).manifest["teacher"]
    assert sorted(found["path"].split(":")) == sorted(map(str, teachers)) and len(set(found["members"])) == 3
    assert found["weights"] == {"kind": "adaptive", "temperature": 1.0, "per": "token"}
    made = make_cache(data_bin, joined(*teachers[:2]), tmp_path / "c", VALID, weighting=read_weighting("3:1", 2))
    numbers = dict(zip(made["teacher"]["path"].split(":"), made["teacher"]["weights"]["numbers"], strict=True))
    assert numbers == {str(teachers[0]): 0.75, str(teachers[1]): 0.25}
    single = make_cache(data_bin, teachers[0], tmp_path / "one", VALID)
    assert single["teacher"].keys() == {"path", "sha256", "dtype"}


def test_a_cached_mixture_of_all_types_is_the_online_mixture_over_some_updates(data_bin, teachers, task, tmp_path):
    options = CachingOptions(top_k=len(task.target_dictionary), store="float32", cpu=True)
    make_cache(data_bin, joined(*teachers), tmp_path / "c", options, weighting=Weighting("adaptive"))
    adaptive = ("--teacher", joined(*teachers), "--teacher-weights", "adaptive")
    online, _ = losses_of_training(data_bin, *KD, *adaptive, updates=6)
    cached, _ = losses_of_training(data_bin, *KD, "--teacher-cache", tmp_path / "c", updates=6)
    assert cached == pytest.approx(online, rel=1e-5)


def recording(source, path, bits):
    """A copy of a checkpoint that records this validation nll_loss, in bits; None: none."""
    state = torch.load(source)
    state["cfg"]["checkpoint"]["best_checkpoint_metric"] = "nll_loss"
    state["extra_state"]["val_loss"] = bits
    torch.save(state, path)
    return path


def test_weights_by_the_recorded_nll(data_bin, teachers, tmp_path):
    """3 and 2 bits: the weights are as 1/8 to 1/4, which is 1 to 2."""
    paths = [recording(teachers[n], tmp_path / f"{n}.pt", bits) for n, bits in ((0, 3.0), (1, 2.0), (2, None))]
    arguments = data_bin, joined(*paths[:2])
    made = make_cache(*arguments, tmp_path / "c", VALID, weighting=Weighting("nll"))["teacher"]
    nll = dict(zip(made["path"].split(":"), made["weights"]["nll"], strict=True))
    assert nll == {str(paths[0]): pytest.approx(3 * math.log(2)), str(paths[1]): pytest.approx(2 * math.log(2))}
    make_cache(*arguments, tmp_path / "d", VALID, weighting=read_weighting("1:2", 2))
    found, expected = (CacheReader(tmp_path / name).rows(slice(None)) for name in "cd")
    np.testing.assert_allclose(found.gold, expected.gold, atol=1e-5)
    assert (found.ids == expected.ids).mean() > 0.99  # but for ties
    assert verify_cache(tmp_path / "c", sample=10, cpu=True).largest < 0.001
    with pytest.raises(KDError, match=r"2\.pt does not record it"):
        make_cache(data_bin, joined(*paths), tmp_path / "e", VALID, weighting=Weighting("nll"))
    assert not (tmp_path / "e").exists()


def test_killed_and_continued_it_has_the_same_bytes_and_other_weights_are_refused(data_bin, teachers, mixed, tmp_path):
    calls, compute = [], TeacherRows.__call__

    def stop_in_the_second(self, *arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return compute(self, *arguments)

    arguments = data_bin, joined(*teachers), tmp_path / "c", VALID
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TeacherRows, "__call__", stop_in_the_second)
        with pytest.raises(KeyboardInterrupt):
            make_cache(*arguments, weighting=Weighting("adaptive"), block_tokens=200)
    with pytest.raises(KDError, match="--teacher-weights adaptive, this command has equal"):
        make_cache(*arguments, block_tokens=200)
    with pytest.raises(KDError, match="--teacher-weights-per token, this command has sentence"):
        make_cache(*arguments, weighting=Weighting("adaptive", per="sentence"), block_tokens=200)
    with pytest.raises(KDError, match="a teacher with sha256"):
        make_cache(data_bin, teachers[0], *arguments[2:], block_tokens=200)
    make_cache(*arguments, weighting=Weighting("adaptive"), block_tokens=200)
    assert content(tmp_path / "c") == content(mixed)


def test_a_mixture_is_verified_with_its_teachers_in_any_order(mixed, teachers, task):
    a, b, c = teachers
    assert verify_cache(mixed, sample=10, cpu=True).largest < 0.001
    assert verify_cache(mixed, teacher=joined(c, a, b), sample=10, cpu=True).largest < 0.001
    with pytest.raises(KDError, match="names 2 of them: omit --teacher, or name all"):
        verify_cache(mixed, teacher=joined(a, b), sample=10, cpu=True)
    with pytest.raises(KDError, match="is another checkpoint"):
        CachedSignalSource(mixed, task, temperature=1.0, stated_teacher=joined(a, b, c, a), subset="valid")


def test_another_gold_value_fails_the_verification(mixed, tmp_path):
    from fairseq_kd.artifacts.hashes import sha256_file

    copy = shutil.copytree(mixed, tmp_path / "c")
    (np.fromfile(copy / "gold.bin", dtype="<f4") - 0.1).astype("<f4").tofile(copy / "gold.bin")
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"]["gold.bin"] = sha256_file(copy / "gold.bin")
    del manifest["seal"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(KDError, match=r"deviates from .* by 0\.025"):
        verify_cache(copy, sample=10, cpu=True)


def test_a_broken_teacher_among_three_is_named_and_nothing_is_written(data_bin, teachers, tmp_path, capsys):
    broken = tmp_path / "broken.pt"
    broken.write_bytes(teachers[1].read_bytes()[:1000])
    words = ["cache", data_bin, "--subset", "valid", "--cpu", "--out", tmp_path / "c", "--teacher"]
    for bad, message in ((broken, "broken.pt"), (tmp_path / "none.pt", "none.pt does not exist")):
        assert main([str(word) for word in (*words, joined(teachers[0], bad, teachers[2]))]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("fairseq_kd: error:") and message in error
    options = ("--teacher-weights", "1:2")
    assert main([str(word) for word in (*words, joined(*teachers), *options)]) == 2
    assert "has 2 numbers for 3 teachers" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def test_the_command_prints_the_weights(data_bin, teachers, tmp_path, capsys):
    words = ["cache", data_bin, "--subset", "valid", "--cpu", "--out", tmp_path / "c", "--teacher"]
    words += [joined(*teachers[:2]), "--teacher-weights", "3:1", "--top-k", 3]
    assert main([str(word) for word in words]) == 0
    printed = capsys.readouterr().out
    assert "mixture of 2 teachers" in printed and f"0.7500 {teachers[0]}" in printed


def named(ids, probs, shapes=None, shape=0) -> TopKSignal:
    """One token; the tail is the rest."""
    probs = torch.tensor([probs])
    shape_ids = None if shapes is None else torch.tensor([shape])
    tail = (1 - probs.sum(dim=1)).log()
    return TopKSignal(torch.tensor([ids]), probs.log(), tail, None if shapes is None else shapes.log(), shape_ids)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_entries_that_a_cache_does_not_name_have_their_share_of_its_tail(temperature):
    """V = 5. The first has 0.6, 0.2 at 0, 1, and an even tail of 0.2; the second 0.5 at 4, and a tail with a shape."""
    shapes = torch.tensor([[0.2, 0.2, 0.2, 0.2, 0.2], [0.1, 0.2, 0.1, 0.4, 0.2]])
    parts = (named([0, 1], [0.6, 0.2]), named([4], [0.5], shapes, 1))
    signal = RebuiltMixture(parts, torch.tensor([0.75, 0.25]).log(), 5, temperature)
    first = torch.tensor([0.6, 0.2, 0.2 / 3, 0.2 / 3, 0.2 / 3])
    second = torch.tensor([0.5 / 8, 1 / 8, 0.5 / 8, 2 / 8, 0.5])  # 0.5 · shape / 0.8
    expected = (0.75 * first + 0.25 * second) ** (1 / temperature)
    torch.testing.assert_close(signal.rows().exp()[0], expected / expected.sum())
    per_token = RebuiltMixture(parts, torch.tensor([[0.75, 0.25]]).log(), 5, temperature)
    assert torch.equal(per_token.rows(out=torch.empty(1, 5)), signal.part(0, 1).rows())


def test_a_mixture_with_a_whole_distribution():
    whole = DenseSignal(torch.tensor([[0.0, 0.5, 0.5]]).log(), None)
    signal = RebuiltMixture((named([2], [0.4]), whole), torch.tensor([0.5, 0.5]).log(), 3)
    torch.testing.assert_close(signal.rows().exp(), torch.tensor([[0.15, 0.4, 0.45]]))


@pytest.fixture(scope="module")
def caches(data_bin, teachers, tmp_path_factory):
    """One cache per teacher, of the validation set."""
    folder, made = tmp_path_factory.mktemp("caches"), []
    for number, path in enumerate(teachers[:2]):
        made.append(folder / str(number))
        make_cache(data_bin, path, made[-1], CachingOptions("valid", top_k=40, cpu=True, store="float32"))
    return made


def source_of(folders, task, weighting=None, **how):
    how = {"temperature": 1.0, "subset": "valid", "weighting": weighting or Weighting(), **how}
    return open_caches(joined(*folders), task, **how)


@pytest.mark.parametrize("kind", ["equal", "adaptive"])
def test_several_caches_are_near_the_mixture_of_the_running_teachers(data_bin, caches, teachers, task, kind):
    from fairseq_kd.inference.loading import load_members
    from fairseq_kd.inference.mixed import MixedModels
    from fairseq_kd.loss.rows import kl

    sample = batch(task, range(20), "valid")
    keep = sample["target"].ne(1)
    members, _ = load_members(data_bin, [str(path) for path in teachers[:2]], "valid")
    exact = MixedModels(members, Weighting(kind)).signal(sample, keep)
    source = source_of(caches, task, Weighting(kind))
    signal = source.signal(sample, keep, 1.0)
    assert isinstance(source, CachedMixtureSource) and isinstance(signal, RebuiltMixture)
    torch.testing.assert_close(signal.rows().exp().sum(dim=1), torch.ones(len(signal)), rtol=0, atol=1e-4)
    assert kl(exact.rows(), signal.rows()).mean() < 0.01
    assert list(source.sums) == (["teacher_weight_1", "teacher_weight_2"] if kind == "adaptive" else [])
    if kind == "adaptive":
        torch.testing.assert_close(signal.log_weights, exact.log_weights, rtol=0, atol=1e-5)


def test_a_training_with_several_caches_of_all_types_is_the_online_mixture(data_bin, teachers, task, tmp_path):
    options = CachingOptions(top_k=len(task.target_dictionary), store="float32", cpu=True)
    for name, path in zip("ab", teachers[:2], strict=True):
        make_cache(data_bin, path, tmp_path / name, options)
    weights = ("--teacher-weights", "adaptive", "--teacher-temperature", "2", "--student-temperature", "2")
    folders = joined(tmp_path / "a", tmp_path / "b")
    online, _ = losses_of_training(data_bin, *KD, "--teacher", joined(*teachers[:2]), *weights, updates=4)
    cached, _ = losses_of_training(data_bin, *KD, "--teacher-cache", folders, *weights, updates=4)
    assert cached == pytest.approx(online, rel=1e-5)
    source = CachedMixtureSource([tmp_path / "a", tmp_path / "b"], task, temperature=2.0, weighting=Weighting())
    sample = batch(task, [3])
    assert isinstance(source.signal(sample, sample["target"].ne(1), 2.0), MixtureSignal)


def older(folder, copy):
    """The cache as format 2 wrote it."""
    shutil.copytree(folder, copy)
    (copy / "gold.bin").unlink()
    manifest = json.loads((copy / "manifest.json").read_text()) | {"format": 2}
    del manifest["seal"], manifest["files"]["gold.bin"], manifest["dtypes"]["gold"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


def test_a_cache_of_format_2_is_kept_and_read_and_refused_where_gold_is_needed(
    data_bin, teachers, caches, task, tmp_path
):
    copy = older(caches[0], tmp_path / "older")
    options = CachingOptions("valid", top_k=40, cpu=True, store="float32")
    before = content(copy)
    assert make_cache(data_bin, teachers[0], copy, options)["format"] == 2 and content(copy) == before
    assert verify_cache(copy, sample=5, cpu=True).largest < 0.001
    sample = batch(task, [3, 17], "valid")
    signal = source_of([copy, caches[1]], task).signal(sample, sample["target"].ne(1), 1.0)
    assert len(signal) == sample["ntokens"]
    with pytest.raises(
        KDError, match="has format 2, which stores no log-probabilities of the gold tokens, and --teach"
    ):
        source_of([copy, caches[1]], task, Weighting("adaptive"))


def test_caches_that_do_not_fit_together_are_errors(data_bin, teachers, caches, task, tmp_path):
    make_cache(data_bin, teachers[0], tmp_path / "two", CachingOptions("valid", temperatures=(2.0,), cpu=True))
    with pytest.raises(KDError, match="two has no values at temperature 1, at which several caches are mixed"):
        source_of([caches[0], tmp_path / "two"], task)
    with pytest.raises(KDError, match="--teacher-weights nll does not fit several caches"):
        source_of(caches, task, Weighting("nll"))
    source_of(caches, task, stated_teacher=joined(teachers[1], teachers[0]))
    with pytest.raises(KDError, match="is another checkpoint"):
        source_of(caches, task, stated_teacher=joined(teachers[0], teachers[2]))
    source = source_of(caches, task)
    other = source.sources[1].reader
    other.crc = other.crc.copy()
    other.crc[7, 1] += 1
    from fairseq_kd.teacher.cached_mixture import check_same_data

    with pytest.raises(KDError, match=r"are not of the same data \(other words in sentence 7, 1 sentences differ\)"):
        check_same_data([source.sources[0].reader, other])
