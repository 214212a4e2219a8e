"""kd_word with every divergence and every source of the teacher's signal."""

import copy
import functools
import itertools
from dataclasses import replace

import pytest
import torch
from helpers import batch, build, losses_of_training

from fairseq_kd.cache.make import CachingOptions, make_cache
from fairseq_kd.core.errors import KDError
from fairseq_kd.inference import linear, precision
from fairseq_kd.inference.supported import output_projection
from fairseq_kd.loss.divergences import DIVERGENCES

KD = ("--criterion", "kd_word", "--label-smoothing", "0.1", "--kd-weight", "0.6")


@pytest.fixture(scope="module")
def caches(data_bin, teacher, tmp_path_factory):
    """Folder by (k, store); k = 0: the whole vocabulary. "bucket": compact, without tail shapes."""
    folder, types = (
        tmp_path_factory.mktemp("caches"),
        len((data_bin / "dict.qab.txt").read_text(encoding="utf-8").splitlines()) + 4,
    )
    made = {}
    for k, store in ((0, "float32"), (0, "compact"), (16, "compact"), (16, "bucket")):
        made[k, store] = folder / f"{k}-{store}"
        options = CachingOptions(top_k=k or types, temperatures=(1.0, 2.0), store=store, cpu=True)
        if store == "bucket":
            options = replace(options, store="compact", tail_shapes=0)
        make_cache(data_bin, teacher, made[k, store], options)
    return made


def gradients(data_bin, *options):
    """(logging output, gradient of every parameter) of one batch."""
    _, task, model, criterion = build(data_bin, *KD, "--dropout", "0.0", *options)
    loss, _, logged = criterion(model, batch(task, range(12)))
    loss.backward()
    return logged, torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


@pytest.mark.parametrize(("store", "tolerance"), [("float32", 1e-5), ("compact", 1e-3)])
def test_a_cache_of_all_types_reproduces_the_online_run_over_20_updates(data_bin, teacher, caches, store, tolerance):
    options = (*KD, "--teacher-temperature", "2", "--student-temperature", "2")
    online, _ = losses_of_training(data_bin, *options, "--teacher", teacher, updates=20)
    cached, _ = losses_of_training(data_bin, *options, "--teacher-cache", caches[0, store], updates=20)
    assert len(cached) == 20
    assert cached == pytest.approx(online, rel=tolerance)


SOURCES = ("online", "online top-k", "cached", "cached bucket", "cached all")


@pytest.fixture(scope="module")
def results(data_bin, teacher, caches):
    """source -> {(divergence, implementation): (logging output, gradient)}; computed once per source."""
    options = {
        "online": ("--teacher", teacher),
        "online top-k": ("--teacher", teacher, "--kd-top-k", 16),
        "cached": ("--teacher-cache", caches[16, "compact"]),
        "cached bucket": ("--teacher-cache", caches[16, "bucket"]),
        "cached all": ("--teacher-cache", caches[0, "compact"]),
    }
    return functools.cache(lambda source: of_every_divergence(data_bin, *options[source]))


def of_every_divergence(data_bin, *options):
    _, task, model, criterion = build(data_bin, *KD, "--dropout", "0.0", *options)
    found, sample = {}, batch(task, range(12))
    for name, implementation in itertools.product(DIVERGENCES, ("fused", "reference")):
        criterion.objective = replace(criterion.objective, divergence=DIVERGENCES[name]())
        criterion._implementation = implementation
        model.zero_grad()
        loss, _, logged = criterion(model, sample)
        loss.backward()
        found[name, implementation] = logged, torch.cat([each.grad.flatten() for each in model.parameters()])
    return found


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_fused_equals_reference(results, divergence, source):
    fused, reference = (results(source)[divergence, implementation] for implementation in ("fused", "reference"))
    for name in ("loss", "nll_loss", "kd_loss", "n_agreed"):
        assert fused[0][name].item() == pytest.approx(reference[0][name].item(), rel=1e-5)
    torch.testing.assert_close(fused[1], reference[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_teacher_and_its_cache_say_the_same(results, divergence):
    """Truncated: k = 16 and a bucket. Whole: the cache has all tokens. float16 on disk in both."""
    for online, cached in (("online top-k", "cached bucket"), ("online", "cached all")):
        online, cached = (results(source)[divergence, "fused"] for source in (online, cached))
        assert cached[0]["kd_loss"].item() == pytest.approx(online[0]["kd_loss"].item(), rel=2e-3)
        if divergence == "tie":  # it ranks the teacher's tokens, and float16 can change the order of nearly equal ones
            assert torch.isclose(cached[1], online[1], rtol=1e-2, atol=2e-2).float().mean() > 0.99
            assert (cached[1] - online[1]).norm() < 0.05 * online[1].norm()
        else:
            torch.testing.assert_close(cached[1], online[1], rtol=1e-2, atol=2e-2)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_tail_shapes_bring_some_divergences_nearer_to_the_whole_teacher_and_change_no_other(results, divergence):
    whole, bucket, shaped = (results(source)[divergence, "fused"] for source in ("online", "cached bucket", "cached"))
    if not DIVERGENCES[divergence].sees_tail_shapes:
        assert shaped[0]["kd_loss"].item() == bucket[0]["kd_loss"].item() and torch.equal(shaped[1], bucket[1])
        return
    kd = [found[0]["kd_loss"].item() for found in (whole, bucket, shaped)]
    assert abs(kd[2] - kd[0]) < 0.2 * abs(kd[1] - kd[0])
    assert (shaped[1] - whole[1]).norm() < 0.5 * (bucket[1] - whole[1]).norm()


def test_divergences_give_different_gradients(results):
    found = [results("online")[name, "fused"][1] for name in DIVERGENCES]
    for one, other in itertools.combinations(found, 2):
        assert (one - other).norm() > 0.01 * one.norm()


def test_the_options_choose_the_divergence_its_parameters_and_its_scale(data_bin, teacher):
    _, task, _, criterion = build(data_bin, *KD, "--teacher", teacher)
    for name, known in DIVERGENCES.items():
        cfg = copy.copy(criterion.cfg)
        cfg.kd_divergence = name
        if known.takes_temperatures:
            cfg.teacher_temperature = cfg.student_temperature = 3.0
        for parameter in known.parameters:
            setattr(cfg, parameter.name, (parameter.low + parameter.high) / 3)
        objective = type(criterion)(cfg, task).objective
        assert type(objective.divergence) is known
        assert objective.scale == (3**known.temperature_power if known.takes_temperatures else 1)
        for parameter in known.parameters:
            assert getattr(objective.divergence, parameter.name) == getattr(cfg, parameter.name)


def test_the_cache_goes_with_the_batch_not_with_its_order(data_bin, caches):
    _, task, model, criterion = build(
        data_bin, *KD, "--dropout", "0.0", "--teacher-cache", caches[16, "compact"], "--ignore-prefix-size", "1"
    )
    alone = [criterion(model, batch(task, [i]))[0].item() for i in range(6)]
    for order in (range(6), [3, 0, 5, 1, 4, 2]):
        assert criterion(model, batch(task, order))[0].item() == pytest.approx(sum(alone), rel=1e-5)


def test_a_stated_teacher_is_compared_and_serves_validation(data_bin, teacher, caches, tmp_path):
    options = (*KD, "--teacher-cache", caches[16, "compact"], "--kd-valid", "--teacher")
    _, task, model, criterion = build(data_bin, *options, teacher)
    model.eval()
    assert criterion(model, batch(task, range(4), "valid"))[2]["kd_loss"] > 0
    other = tmp_path / "other.pt"
    other.write_bytes(teacher.read_bytes() + b"0")
    _, task, *_ = build(data_bin, *options, other)
    with pytest.raises(SystemExit):
        task.load_dataset("train")


@pytest.mark.parametrize("implementation", ["fused", "reference"])
def test_batch_selection_teaches_the_tokens_with_the_highest_cross_entropy(data_bin, teacher, implementation):
    common = ("--teacher", teacher, "--kd-implementation", implementation)
    _, task, model, criterion = build(
        data_bin, *KD, "--dropout", "0.0", *common, "--kd-select", "batch", "--kd-select-rate", "0.25"
    )
    sample = batch(task, range(8))
    loss = criterion(model, sample)[0].item()
    *_, everywhere = build(data_bin, *KD, *common)
    *_, nowhere = build(data_bin, "--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1")
    logits = model(**sample["net_input"])[0].transpose(1, 2)
    nll = torch.nn.functional.cross_entropy(logits, sample["target"], ignore_index=1, reduction="none").view(-1)
    hard = torch.zeros_like(nll, dtype=torch.bool)
    hard[nll.argsort(descending=True)[: round(0.25 * sample["ntokens"])]] = True
    with_teacher, without = (c(model, sample, reduce=False)[0].view(-1) for c in (everywhere, nowhere))
    assert loss == pytest.approx(torch.where(hard, with_teacher, without).sum().item(), rel=1e-5)


def test_recent_tokens_are_saved_and_restored(data_bin, teacher, tmp_path):
    options = (*KD, "--teacher", teacher, "--kd-select", "global", "--kd-queue-size", "500", "--dropout", "0.0")
    whole, _ = losses_of_training(data_bin, *options, updates=8)
    begun, trainer = losses_of_training(data_bin, *options, updates=4)
    assert begun == whole[:4]
    trainer.consolidate_optimizer()  # as fairseq-train does before it saves
    trainer.save_checkpoint(str(tmp_path / "c.pt"), {"train_iterator": {"epoch": 1}})
    _, resumed = losses_of_training(data_bin, *options, updates=0)
    resumed.load_checkpoint(str(tmp_path / "c.pt"))
    saved, restored = trainer.get_criterion().recent, resumed.get_criterion().recent
    assert restored.seen == saved.seen > 0 and torch.equal(restored.values, saved.values)
    assert restored.anchor.item() == 0
    *_, other = build(data_bin, *options, "--kd-queue-size", "400")
    with pytest.raises(SystemExit):
        other.load_state_dict(trainer.get_criterion().state_dict())
    plain = torch.load(teacher, weights_only=True)
    assert plain["criterion"] is None
    resumed.get_criterion().load_state_dict(plain["criterion"])  # a run without --kd-select: a warning, no error


def test_more_types_than_there_are_leave_nothing_out(data_bin, teacher):
    with pytest.raises(SystemExit):
        build(data_bin, *KD, "--teacher", teacher, "--kd-top-k", "100000")


class Wrapper(torch.nn.Module):
    """What a student looks like inside DistributedDataParallel."""

    def __init__(self, module, find_unused_parameters):
        super().__init__()
        self.module, self.find_unused_parameters = module, find_unused_parameters


def test_a_projection_that_ddp_would_call_unused_is_left_to_the_model(data_bin):
    tied = build(data_bin, *KD, "--kd-weight", "0")[2]
    assert output_projection(Wrapper(tied, True)) is tied.decoder.output_projection.weight
    untied = copy.deepcopy(tied)
    untied.decoder.output_projection.weight = torch.nn.Parameter(tied.decoder.output_projection.weight.clone())
    assert output_projection(Wrapper(Wrapper(untied, False), False)) is untied.decoder.output_projection.weight
    assert output_projection(Wrapper(Wrapper(untied, True), False)) is None


def test_a_student_without_a_projection_of_its_own_uses_the_reference(data_bin, teacher):
    lstm = ("--arch", "lstm", "--encoder-embed-dim", "16", "--decoder-embed-dim", "16", "--decoder-out-embed-dim", "16")
    from fairseq import options, tasks
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf

    def build_lstm(*more):
        words = [str(data_bin), *lstm, *KD, "--teacher", str(teacher), "--cpu", "--max-tokens", "400", *more]
        words += ["--optimizer", "adam"]
        cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), words))
        task = tasks.setup_task(cfg.task)
        return task, task.build_model(cfg.model), task.build_criterion(cfg.criterion)

    task, model, criterion = build_lstm()
    assert criterion.implementation(model) == "reference"
    criterion(model, batch(task, range(4)))[0].backward()
    task, model, criterion = build_lstm("--kd-implementation", "fused")
    with pytest.raises(KDError, match="no output projection"):
        criterion.implementation(model)


@pytest.mark.parametrize("option", [("--autocast", "bfloat16"), ("--kd-divergence", "js", "--js-beta", "0.1")])
def test_options_of_the_loss_reach_it(data_bin, caches, option, monkeypatch):
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: True)
    monkeypatch.setattr(linear, "SMALLEST_PRODUCT", 0)
    base = ("--kd-divergence", "js") if "js" in option else ()
    with_option, without = (gradients(data_bin, "--teacher-cache", caches[16, "compact"], *o) for o in (option, base))
    assert not torch.equal(with_option[1], without[1])
    if "bfloat16" in option:
        assert with_option[0]["loss"].item() == pytest.approx(without[0]["loss"].item(), rel=1e-2)
        assert (with_option[1] - without[1]).norm() < 0.05 * without[1].norm()


def test_global_selection_takes_its_threshold_from_the_recent_tokens(data_bin, teacher):
    _, task, model, criterion = build(
        data_bin, *KD, "--dropout", "0.0", "--teacher", teacher, "--kd-select", "global", "--kd-queue-size", "5000"
    )
    *_, nowhere = build(data_bin, "--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1")
    sample = batch(task, range(8))
    taught = criterion(model, sample)[0].item()
    assert taught != pytest.approx(nowhere(model, sample)[0].item(), rel=1e-4)
    criterion.recent.push(torch.full((4000,), 1000.0))  # beside these no token of the batch is hard
    assert criterion(model, sample)[0].item() == pytest.approx(nowhere(model, sample)[0].item(), rel=1e-5)
