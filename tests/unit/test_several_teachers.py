"""kd_word and kd_hybrid with several teachers, and with a partition of the tokens (DP-KD)."""

import json
import math
import shutil
from types import SimpleNamespace

import pytest
import torch
from helpers import batch, build, losses_of_training, with_variants

from fairseq_kd.core.errors import KDError
from fairseq_kd.criterions.config import KDWordConfig, check_options
from fairseq_kd.criterions.kd_word import KDWordCriterion
from fairseq_kd.criterions.source import training_source
from fairseq_kd.inference.checkpoint import validation_nll
from fairseq_kd.loss.mixture import MixtureSignal
from fairseq_kd.loss.signal import DenseSignal
from fairseq_kd.teacher import online
from fairseq_kd.teacher.several import PartitionSource

KD = ("--criterion", "kd_word", "--label-smoothing", "0.1", "--kd-weight", "0.6", "--dropout", "0.0")


@pytest.fixture(scope="module")
def teachers(teacher, tmp_path_factory):
    """Four checkpoints: three that differ, and one that gives every token the same probability."""
    folder = tmp_path_factory.mktemp("teachers")
    return [*with_variants(teacher, folder, 0.02), edited(teacher, folder / "uniform.pt", forget)]


def forget(state):
    for name in ("encoder.embed_tokens", "decoder.embed_tokens", "decoder.output_projection"):
        state["model"][f"{name}.weight"].zero_()


def edited(source, path, edit):
    state = torch.load(source)
    edit(state)
    torch.save(state, path)
    return path


def joined(*paths) -> str:
    return ":".join(map(str, paths))


def computed(data_bin, *options):
    """(logging output, gradient of all parameters) of one batch, and the criterion."""
    _, task, model, criterion = build(data_bin, *KD, *options)
    loss, _, logged = criterion(model, batch(task, range(12)))
    loss.backward()
    return logged, torch.cat([parameter.grad.flatten() for parameter in model.parameters()]), criterion


def assert_same(one, other, **tolerance):
    assert one[0]["kd_loss"].item() == pytest.approx(other[0]["kd_loss"].item(), rel=1e-6)
    torch.testing.assert_close(one[1], other[1], **tolerance)


@pytest.fixture
def loaded(monkeypatch):
    """The paths of the networks that are loaded."""
    paths, load = [], online.load_frozen
    monkeypatch.setattr(online, "load_frozen", lambda path, **options: paths.append(path) or load(path, **options))
    return paths


def test_the_same_network_three_times_is_one_teacher_and_runs_once(data_bin, teacher, tmp_path, loaded):
    copy = shutil.copy(teacher, tmp_path / "copy.pt")
    one, _ = losses_of_training(data_bin, *KD, "--teacher", teacher, updates=4)
    assert loaded == [str(teacher)]
    three, _ = losses_of_training(data_bin, *KD, "--teacher", joined(teacher, copy, teacher), updates=4)
    assert three == one and loaded == [str(teacher)] * 2


def test_the_mixture_is_the_weighted_sum_of_the_probabilities(data_bin, teachers):
    options = ("--teacher", joined(*teachers[:2]), "--teacher-weights", "1:3", "--teacher-temperature", "2")
    _, task, _, criterion = build(data_bin, *KD, *options)
    sample = batch(task, range(5))
    keep = sample["target"].ne(task.target_dictionary.pad())
    signal = criterion.online.signal(sample, keep, 2.0)
    assert isinstance(signal, MixtureSignal) and len(signal) == keep.sum()
    first, second = (member.teacher.signal(sample, keep).rows().exp() for member in criterion.online.members)
    mixed = (0.25 * first + 0.75 * second).sqrt()
    torch.testing.assert_close(signal.rows().exp(), mixed / mixed.sum(dim=1, keepdim=True), rtol=1e-4, atol=1e-7)


def test_the_order_of_the_teachers_changes_nothing_but_rounding(data_bin, teachers):
    a, b, c = teachers[:3]
    assert_same(
        computed(data_bin, "--teacher", joined(a, b, c), "--teacher-weights", "1:2:3"),
        computed(data_bin, "--teacher", joined(c, a, b), "--teacher-weights", "3:1:2"),
        rtol=1e-4,
        atol=1e-5,
    )


def test_a_teacher_of_weight_zero_does_not_run(data_bin, teachers, loaded):
    a, b = teachers[:2]
    both = computed(data_bin, "--teacher", joined(b, a), "--teacher-weights", "0:2")
    assert loaded == [str(a)]
    assert_same(both, computed(data_bin, "--teacher", a), rtol=0, atol=0)


@pytest.mark.parametrize(
    "options",
    [
        ("--kd-divergence", "kl", "--teacher-weights", "adaptive"),
        ("--kd-divergence", "tie", "--teacher-weights", "adaptive", "--kd-top-k", 16),
        ("--kd-divergence", "js", "--kd-partition", "supervised", "--kd-select", "batch"),
        ("--kd-partition", "unsupervised", "--teacher-temperature", 2, "--student-temperature", 2),
    ],
)
def test_fused_equals_reference(data_bin, teachers, options):
    if "--kd-partition" in options:
        options = (*options, "--kd-start", teachers[2])
    options = ("--teacher", joined(*teachers[:2]), *options)
    results = [computed(data_bin, *options, "--kd-implementation", name) for name in ("fused", "reference")]
    assert results[0][0]["kd_loss"] > 0
    assert_same(*results, rtol=1e-4, atol=1e-4)


def test_the_mean_weights_are_logged(data_bin, teachers):
    logged, _, criterion = computed(
        data_bin, "--teacher", joined(teachers[0], teachers[3]), "--teacher-weights", "adaptive"
    )
    tokens = logged["kd_tokens"]
    weights = [logged[f"teacher_weight_{number}"].item() / tokens for number in (1, 2)]
    assert sum(weights) == pytest.approx(1, abs=1e-5)
    # of a uniform teacher 1/V; the mean over the tokens of p / (p + 1/V) for the p of the other one
    signal = criterion.online.members[0].teacher.signal
    _, task, _, _ = build(data_bin, *KD, "--teacher", teachers[0])
    sample = batch(task, range(12))
    keep = sample["target"].ne(task.target_dictionary.pad())
    p = signal(sample, keep).rows().exp().gather(1, sample["target"][keep].unsqueeze(1))
    assert weights[0] == pytest.approx((p / (p + 1 / len(task.target_dictionary))).mean().item(), rel=1e-4)
    assert "teacher_weight_1" not in computed(data_bin, "--teacher", joined(*teachers[:2]))[0]


def test_weights_from_the_recorded_nll(data_bin, teachers, tmp_path):
    def record(metric, value):
        def edit(state):
            state["cfg"]["checkpoint"]["best_checkpoint_metric"] = metric
            state["extra_state"]["val_loss"] = value

        return edit

    bits = edited(teachers[0], tmp_path / "bits.pt", record("nll_loss", 3.0))  # 3 ln 2 nats
    perplexity = edited(teachers[1], tmp_path / "ppl.pt", record("ppl", 4.0))  # ln 4 = 2 ln 2 nats
    options = ("--teacher", joined(bits, perplexity), "--teacher-weights")
    # the weights are as exp(-3 ln 2) : exp(-2 ln 2) = 1 : 2
    assert_same(computed(data_bin, *options, "nll"), computed(data_bin, *options, "1:2"), rtol=1e-4, atol=1e-6)
    squared = ("nll", "--teacher-weight-temperature", "0.5")
    assert_same(computed(data_bin, *options, *squared), computed(data_bin, *options, "1:4"), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("metric", "value", "criterion", "smoothing", "expected"),
    [
        ("nll_loss", 3.0, "label_smoothed_cross_entropy", 0.1, 3 * math.log(2)),
        ("ppl", 4.0, "cross_entropy", None, math.log(4)),
        ("loss", 3.0, "cross_entropy", None, 3 * math.log(2)),
        ("loss", 3.0, "kd_word", 0.0, 3 * math.log(2)),
        ("loss", 3.0, "label_smoothed_cross_entropy", 0.1, None),
        ("loss", 3.0, "of_a_plugin", 0.0, None),
        ("bleu", 30.0, "cross_entropy", None, None),
        ("nll_loss", None, "cross_entropy", None, None),
        ("nll_loss", math.inf, "cross_entropy", None, None),
    ],
)
def test_the_validation_nll_that_a_checkpoint_records(metric, value, criterion, smoothing, expected):
    cfg = {"checkpoint": {"best_checkpoint_metric": metric}, "criterion": {"_name": criterion}}
    cfg["criterion"] |= {} if smoothing is None else {"label_smoothing": smoothing}
    assert validation_nll({"cfg": cfg, "extra_state": {"val_loss": value}}) == expected
    assert validation_nll({"cfg": cfg}) is None


def failure(capsys, data_bin, *options) -> str:
    """The line that the training prints when it ends with status 2 at its first batch."""
    _, task, model, criterion = build(data_bin, *KD, *options)
    with pytest.raises(SystemExit) as ended:
        criterion(model, batch(task, range(3)))
    assert ended.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    return line


def test_a_teacher_without_a_recorded_nll_is_one_clear_error(data_bin, teachers, capsys):
    line = failure(capsys, data_bin, "--teacher", joined(*teachers[:2]), "--teacher-weights", "nll")
    assert f"{teachers[0]} does not record it" in line and "--teacher-weights 2:1" in line


def test_the_teacher_with_other_dictionaries_is_named(data_bin, teachers, tmp_path, capsys):
    for path in data_bin.glob("dict.*.txt"):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        (tmp_path / path.name).write_text("".join([lines[1], lines[0], *lines[2:]]), encoding="utf-8")
    other = edited(teachers[1], tmp_path / "other.pt", lambda state: state["cfg"]["task"].update(data=str(tmp_path)))
    line = failure(capsys, data_bin, "--teacher", joined(teachers[0], other, teachers[2]))
    symbols = [text.split()[0] for text in lines[:2]]
    assert f"teacher {other}" in line and "the first difference is at index 4" in line
    assert repr(symbols[0]) in line and repr(symbols[1]) in line


def test_a_broken_teacher_among_three_is_one_clear_error(data_bin, teachers, tmp_path, capsys):
    broken = tmp_path / "broken.pt"
    broken.write_bytes(teachers[1].read_bytes()[:1000])
    assert str(broken) in failure(capsys, data_bin, "--teacher", joined(teachers[0], broken, teachers[2]))
    _, task, _, criterion = build(data_bin, *KD, "--teacher", joined(teachers[0], tmp_path / "none.pt"))
    with pytest.raises(KDError, match=r"teacher .*none\.pt does not exist"):
        training_source(criterion.cfg, task, criterion.online)


def stub(probs):
    """A source with these probabilities per token; it has what a partition asks of a network."""
    signal = DenseSignal(torch.tensor(probs).log(), None)
    return SimpleNamespace(signal=lambda sample, keep, temperature: signal)


TEACHER = [[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6], [0.3, 0.3, 0.4]]
START = [[0.6, 0.2, 0.2], [0.3, 0.5, 0.2], [0.2, 0.7, 0.1], [0.3, 0.4, 0.3]]
GOLD = torch.tensor([[1, 0], [0, 2]])  # p(gold): teacher 0.3, 0.1, 0.2, 0.4; start 0.2, 0.3, 0.2, 0.3


@pytest.mark.parametrize(
    ("kind", "per", "from_start"),
    [
        # gold: 0.3 > 0.2 teacher; 0.1 < 0.3 start; equal: teacher; 0.4 > 0.3 teacher
        ("supervised", "token", [False, True, False, False]),
        # products: sentence 1: 0.03 < 0.06 start; sentence 2: 0.08 > 0.06 teacher
        ("supervised", "sentence", [True, True, False, False]),
        # largest: 0.5 < 0.6 start; 0.8 > 0.5 teacher; 0.6 < 0.7 start; equal: teacher
        ("unsupervised", "token", [True, False, True, False]),
        # products: 0.40 > 0.30 teacher; 0.24 < 0.28 start
        ("unsupervised", "sentence", [False, False, True, True]),
    ],
)
def test_the_partition_by_hand(kind, per, from_start):
    source = PartitionSource(stub(TEACHER), stub(START), kind, per)
    signal = source.signal({"target": GOLD}, torch.ones(2, 2, dtype=torch.bool), 1.0)
    expected = [start if chosen else teacher for teacher, start, chosen in zip(TEACHER, START, from_start, strict=True)]
    torch.testing.assert_close(signal.rows().exp(), torch.tensor(expected))
    assert {name: value.item() for name, value in source.sums.items()} == {
        "from_teacher": 4 - sum(from_start),
        "from_start": sum(from_start),
    }


def test_a_partition_with_several_teachers_compares_their_mixture_with_the_start():
    parts = tuple(DenseSignal(torch.tensor([row]).log(), None) for row in ([0.9, 0.1], [0.1, 0.9]))
    mixture = MixtureSignal(parts, torch.tensor([0.5, 0.5]).log())
    source = SimpleNamespace(signal=lambda *_: mixture, sums={})
    for start, expected in (([0.45, 0.55], [0.45, 0.55]), ([0.55, 0.45], [0.5, 0.5])):
        signal = PartitionSource(source, stub([start]), "supervised", "token").signal(
            {"target": torch.tensor([[1]])}, torch.tensor([[True]]), 1.0
        )
        torch.testing.assert_close(signal.rows().exp(), torch.tensor([expected]))


@pytest.mark.parametrize("per", ["token", "sentence"])
def test_with_all_tokens_to_one_source_the_training_is_kd_word_with_this_teacher(data_bin, teachers, per):
    """A uniform distribution has the smallest largest probability."""
    trained, uniform = teachers[1], teachers[3]
    expected = computed(data_bin, "--teacher", trained)
    partition = ("--kd-partition", "unsupervised", "--kd-partition-per", per)
    to_teacher = computed(data_bin, *partition, "--teacher", trained, "--kd-start", uniform)
    to_start = computed(data_bin, *partition, "--teacher", uniform, "--finetune-from-model", trained)
    for found, share in ((to_teacher, 1), (to_start, 0)):
        assert found[0]["from_teacher"] == share * found[0]["kd_tokens"]
        assert found[0]["from_start"] == (1 - share) * found[0]["kd_tokens"]
        assert_same(found, expected, rtol=1e-4, atol=1e-5)


def test_weights_and_shares_are_logged_per_token():
    output = {"loss": 1.0, "nll_loss": 1.0, "ntokens": 4, "sample_size": 4, "kd_tokens": 4, "kd_loss": 0, "n_agreed": 0}
    shares = {"teacher_weight_1": 1.0, "teacher_weight_2": 3.0, "from_teacher": 3, "from_start": 1, "teacher_tokens": 4}
    from fairseq.logging import metrics

    with metrics.aggregate(new_root=True) as found:
        KDWordCriterion.reduce_metrics([output | shares, output | shares])
    values = found.get_smoothed_values()
    assert (values["teacher_weight_1"], values["teacher_weight_2"]) == (0.25, 0.75)
    assert (values["from_teacher"], values["from_start"]) == (75, 25)


def test_a_batch_without_a_signal_logs_the_same_names(data_bin, teachers):
    """All ranks must log the same names; a rank without data of its own gets a dummy batch."""
    options = ("--teacher", joined(*teachers[:2]), "--teacher-weights", "adaptive")
    options += ("--kd-partition", "supervised", "--kd-start", teachers[2])
    _, task, model, criterion = build(data_bin, *KD, *options)
    criterion.calls.is_dummy = True
    *_, dummy = criterion(model, batch(task, range(2)))
    criterion.calls.is_dummy = False
    *_, real = criterion(model, batch(task, range(2)))
    assert dummy.keys() == real.keys() >= {"teacher_weight_1", "teacher_weight_2", "from_teacher", "from_start"}


def test_kd_hybrid_teaches_the_gold_target_by_several_teachers(data_bin, distilled, teachers):
    options = ("--task", "kd_translation", "--distilled", distilled, "--criterion", "kd_hybrid", "--dropout", "0.0")
    teaching = ("--teacher", joined(*teachers[:2]), "--teacher-weights", "adaptive", "--kd-weight", "0.6")
    teaching += ("--label-smoothing", "0.1", "--kd-partition", "supervised", "--kd-start", teachers[2])
    _, task, model, criterion = build(data_bin, *options, *teaching, "--hybrid-weight", "1")
    *_, hybrid = criterion(model, batch(task, range(12)))
    expected = computed(data_bin, *teaching)[0]
    for name in ("kd_loss", "from_start", "teacher_weight_1"):
        assert hybrid[name].item() == pytest.approx(expected[name].item(), rel=1e-5)
    assert 0 < hybrid["from_start"] < hybrid["kd_tokens"]


def test_a_partition_by_the_gold_tokens_is_refused_for_translations_by_a_teacher(data_bin, teachers, tmp_path):
    folder = shutil.copytree(data_bin, tmp_path / "distilled")
    (folder / "manifest.json").write_text(json.dumps({"kind": "fairseq_kd decoded data-bin"}))
    partition = ("--teacher", teachers[0], "--kd-start", teachers[1], "--kd-partition")
    _, task, _, criterion = build(folder, *KD, *partition, "supervised")
    with pytest.raises(KDError, match="needs gold targets"):
        training_source(criterion.cfg, task, criterion.online)
    _, task, _, criterion = build(folder, *KD, *partition, "unsupervised")
    assert training_source(criterion.cfg, task, criterion.online) is criterion.online


def test_the_start_is_the_file_from_which_the_training_starts(data_bin, teachers):
    partition = ("--teacher", teachers[0], "--kd-partition", "unsupervised")
    for options in (("--finetune-from-model", teachers[1]), ("--restore-file", teachers[1], "--reset-optimizer")):
        *_, criterion = build(data_bin, *KD, *partition, *options)
        assert criterion.online.members[1].path == teachers[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher": "a.pt:b.pt", "teacher_weights": "1:2:3"}, "3 numbers for 2 teachers"),
        ({"teacher": "a.pt:b.pt", "teacher_weights": "best"}, "--teacher-weights best: must be equal"),
        ({"teacher": "a.pt:b.pt", "teacher_weights_per": "sentence"}, "it belongs to adaptive"),
        ({"teacher": "a.pt:b.pt", "teacher_weight_temperature": 2.0}, "it belongs to adaptive and nll"),
        ({"teacher": ":"}, "--teacher: give a checkpoint"),
        ({"teacher_weights": "adaptive"}, "--teacher-weights adaptive has no effect with fewer than two teachers"),
        ({"teacher": None, "kd_weight": 0.0, "teacher_weights": "nll"}, "no effect with fewer than two"),
        ({"teacher": "a.pt:b.pt", "teacher_cache": "c", "teacher_weights": "nll"}, "no effect with --teacher-cache"),
        ({"teacher": "a.pt:b.pt", "trust_checkpoint": "b.pt:c.pt"}, "c.pt is not the teacher"),
        ({"kd_start": "s.pt"}, "--kd-start s.pt has no effect without --kd-partition"),
        ({"kd_partition_per": "sentence"}, "--kd-partition-per sentence has no effect without --kd-partition"),
        ({"kd_partition": "supervised"}, "needs the student's initial weights"),
        ({"kd_partition": "supervised", "kd_start": "s.pt:t.pt"}, "names 2 checkpoints"),
        ({"kd_partition": "supervised", "kd_start": "s.pt", "teacher_cache": "c"}, "needs a teacher that runs"),
        ({"kd_partition": "supervised", "kd_start": "s.pt", "teacher": None, "teacher_cache": "c"}, "needs a teacher"),
        ({"kd_partition": "supervised", "kd_start": "s.pt", "kd_weight": 0.0}, "no effect with --kd-weight 0"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_are_errors(options, message):
    defaults = {"teacher": "t.pt", "sentence_avg": False, "finetune_from_model": None}
    defaults |= {"restore_file": "checkpoint_last.pt"}
    check_options(KDWordConfig(**defaults))
    with pytest.raises(KDError, match=message.replace(".", r"\.")):
        check_options(KDWordConfig(**(defaults | options)))


def test_trust_can_name_one_of_several_teachers_and_the_start():
    given = {
        "teacher": "a.pt:b.pt",
        "trust_checkpoint": "b.pt:s.pt",
        "kd_partition": "unsupervised",
        "kd_start": "s.pt",
    }
    check_options(KDWordConfig(sentence_avg=False, **given))
    assert math.isclose(KDWordConfig().teacher_weight_temperature, 1)
