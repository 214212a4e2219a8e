import pytest
import torch
import torch.nn.functional as F
from helpers import batch, build, losses_of_training

from fairseq_kd.core.errors import KDError
from fairseq_kd.criterions.config import KDWordConfig, check_options
from fairseq_kd.inference.frozen import load_frozen

KD = ("--criterion", "kd_word", "--dropout", "0.0")


def loss_of(criterion, model, sample, **kwargs):
    return criterion(model, sample, **kwargs)[0]


@pytest.mark.parametrize(
    ("alpha", "tau_t", "tau_s", "scale"), [(0.3, 1, 1, 1), (0.5, 2, 2, 4), (0.7, 2, 1, 1), (1.0, 1, 4, 1)]
)
def test_loss_and_gradient_equal_a_computation_by_torch_alone(data_bin, teacher, alpha, tau_t, tau_s, scale):
    options = ("--kd-weight", alpha, "--teacher-temperature", tau_t, "--student-temperature", tau_s)
    _, task, model, criterion = build(data_bin, *KD, "--teacher", teacher, *options)
    sample = batch(task, range(5))
    loss_of(criterion, model, sample).backward()
    gradient = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()

    logits = model(**sample["net_input"])[0]
    keep = sample["target"].ne(task.target_dictionary.pad())
    with torch.no_grad():
        teacher_logits = criterion.source.teacher.model(**sample["net_input"])[0]
    gold = F.cross_entropy(logits[keep], sample["target"][keep], reduction="sum")
    soft = F.kl_div(
        F.log_softmax(logits[keep] / tau_s, -1), F.softmax(teacher_logits[keep] / tau_t, -1), reduction="sum"
    )
    expected = (1 - alpha) * gold + alpha * scale * soft
    expected.backward()
    assert loss_of(criterion, model, sample).item() == pytest.approx(expected.item(), rel=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradient[name], parameter.grad, rtol=1e-4, atol=1e-5)


LSTM = ("lstm", "--decoder-out-embed-dim", "16")
CONVOLUTION = ("fconv", "--encoder-layers", "[(16, 3)]", "--decoder-layers", "[(16, 3)]")


@pytest.mark.parametrize("arch", [LSTM, CONVOLUTION], ids=lambda words: words[0])
def test_alpha_zero_equals_label_smoothed_cross_entropy_for_models_without_a_fused_loss(data_bin, arch):
    from fairseq import options, tasks, utils
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf

    found = []
    for criterion in (("kd_word", "--kd-weight", "0"), ("label_smoothed_cross_entropy",)):
        words = [str(data_bin), "--arch", *arch, "--encoder-embed-dim", "16", "--decoder-embed-dim", "16"]
        words += ["--criterion", *criterion, "--label-smoothing", "0.1", "--dropout", "0", "--optimizer", "sgd"]
        cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), words))
        utils.set_torch_seed(1)
        task = tasks.setup_task(cfg.task)
        model, criterion = task.build_model(cfg.model), task.build_criterion(cfg.criterion)
        loss, sample_size, _ = criterion(model, batch(task, range(8)))
        loss.backward()
        found.append([loss, torch.tensor(sample_size), *(parameter.grad for parameter in model.parameters())])
    assert len(found[0]) == len(found[1]) > 8
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("implementation", "atol"), [("reference", 1e-7), ("fused", 1e-5)])
def test_alpha_zero_equals_label_smoothed_cross_entropy_over_20_updates(data_bin, teacher, implementation, atol):
    """The fused loss sums in another order; SGD keeps that small, Adam makes up to a step of it near 0."""
    common = ("--label-smoothing", "0.1", "--dropout", "0.1", "--optimizer", "sgd", "--lr", "0.5")
    plain, trainer = losses_of_training(data_bin, "--criterion", "label_smoothed_cross_entropy", *common, updates=20)
    for extra in ((), ("--teacher", teacher)):  # with a teacher its divergence is only logged
        kd, kd_trainer = losses_of_training(
            data_bin,
            *("--criterion", "kd_word", "--kd-weight", "0", "--kd-implementation", implementation),
            *(*common, *extra),
            updates=20,
        )
        assert len(kd) == 20
        assert kd == pytest.approx(plain, rel=1e-5 if implementation == "fused" else 1e-6)
        assert kd[-1] < 0.9 * kd[0]  # it learns
        for ours, theirs in zip(kd_trainer.model.parameters(), trainer.model.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=atol)


def test_padding_adds_no_loss(data_bin, teacher):
    _, task, model, criterion = build(data_bin, *KD, "--teacher", teacher, "--label-smoothing", "0.1")
    alone = [loss_of(criterion, model, batch(task, [i])).item() for i in range(6)]
    assert loss_of(criterion, model, batch(task, range(6))).item() == pytest.approx(sum(alone), rel=1e-5)
    order = [3, 0, 5, 1, 4, 2]
    assert loss_of(criterion, model, batch(task, order)).item() == pytest.approx(sum(alone), rel=1e-5)


def test_unreduced_loss_has_one_value_a_position_and_the_same_sum(data_bin, teacher):
    _, task, model, criterion = build(data_bin, *KD, "--teacher", teacher)
    sample = batch(task, range(4))
    values = loss_of(criterion, model, sample, reduce=False)
    assert values.shape == (sample["target"].numel(), 1)
    assert not values[sample["target"].eq(task.target_dictionary.pad()).view(-1)].any()
    assert values.sum().item() == pytest.approx(loss_of(criterion, model, sample).item(), rel=1e-5)


def test_ignored_prefix_counts_in_neither_term(data_bin, teacher):
    _, task, model, criterion = build(data_bin, *KD, "--teacher", teacher, "--ignore-prefix-size", "2")
    sample = batch(task, range(4))
    loss, _, logging_output = criterion(model, sample)
    assert logging_output["kd_tokens"] == sample["ntokens"] - 2 * 4
    logits = model(**sample["net_input"])[0][:, 2:]
    teacher_logits = criterion.source.teacher.model(**sample["net_input"])[0][:, 2:]
    target = sample["target"][:, 2:]
    keep = target.ne(task.target_dictionary.pad())
    gold = F.cross_entropy(logits[keep], target[keep], reduction="sum")
    soft = F.kl_div(F.log_softmax(logits[keep], -1), F.softmax(teacher_logits[keep], -1), reduction="sum")
    assert loss.item() == pytest.approx((0.5 * gold + 0.5 * soft).item(), rel=1e-5)


def test_logged_values_are_bits_a_token_and_percent(data_bin, teacher):
    from fairseq.logging import metrics

    _, task, model, criterion = build(data_bin, *KD, "--teacher", teacher, "--report-accuracy")
    first = batch(task, [0])
    criterion.source.signal(first, criterion.kept(first), 1.0)
    model.load_state_dict(criterion.source.teacher.model.state_dict())
    model.train()
    sample = batch(task, range(8))
    with metrics.aggregate() as logged:
        criterion.reduce_metrics([criterion(model, sample)[2]])
    values = logged.get_smoothed_values()
    # the student is the teacher: no divergence, full agreement; nll in bits from its logits
    nll = F.cross_entropy(model(**sample["net_input"])[0].transpose(1, 2), sample["target"], ignore_index=1)
    assert values["kd_loss"] == pytest.approx(0, abs=1e-3)
    assert values["agreement"] == 100
    assert values["nll_loss"] == pytest.approx(nll.item() / 0.6931471805599453, abs=1e-3)
    assert values["ppl"] == pytest.approx(2 ** values["nll_loss"], rel=0.01)
    assert 0 < values["accuracy"] < 100


def test_validation_is_the_students_own_loss_and_needs_no_teacher(data_bin, tmp_path):
    missing = tmp_path / "moved.pt"
    _, task, model, criterion = build(data_bin, *KD, "--teacher", missing, "--label-smoothing", "0.1")
    *_, plain = build(data_bin, "--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1")
    model.eval()
    task.load_dataset("train", task_cfg=task.cfg)  # as commands do that validate
    sample = batch(task, range(4))
    loss, _, logging_output = criterion(model, sample)
    assert loss.item() == pytest.approx(plain(model, sample)[0].item(), rel=1e-6)
    assert "kd_loss" not in logging_output


def test_kd_valid_logs_the_divergence_but_keeps_the_loss(data_bin, teacher):
    _, task, model, criterion = build(data_bin, *KD, "--teacher", teacher, "--kd-valid")
    model.eval()
    loss, _, logging_output = criterion(model, batch(task, range(4)))
    assert loss.item() == logging_output["nll_loss"].item()
    assert logging_output["kd_loss"] > 0


def test_teacher_is_no_part_of_criterion_and_stays_frozen_in_eval_mode(data_bin, teacher):
    _, task, model, criterion = build(data_bin, *KD, "--teacher", teacher)
    loss_of(criterion, model, batch(task, range(3))).backward()
    criterion.train()
    model.train()
    network = criterion.source.teacher.model
    assert list(criterion.parameters()) == [] and criterion.state_dict() == {}
    assert not any(module.training for module in network.modules())
    assert not any(p.requires_grad or p.grad is not None for p in network.parameters())


def test_loading_the_teacher_leaves_the_random_numbers_alone(teacher):
    before = torch.get_rng_state()
    load_frozen(teacher)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.05), ("float16", 0.01)])
def test_teacher_dtype_changes_only_rounding(data_bin, teacher, dtype, tolerance):
    _, task, *_ = build(data_bin, *KD, "--teacher", teacher)
    sample = batch(task, range(4))
    exact, rounded = (load_frozen(teacher, dtype=d) for d in ("float32", dtype))
    assert next(rounded.model.parameters()).dtype == getattr(torch, dtype)
    keep = sample["target"].ne(task.target_dictionary.pad())
    rounded_lprobs, exact_lprobs = (loaded.signal(sample, keep).rows() for loaded in (rounded, exact))
    assert rounded_lprobs.dtype == torch.float32
    torch.testing.assert_close(rounded_lprobs, exact_lprobs, rtol=0, atol=tolerance * 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kd_weight": 1.5}, "--kd-weight 1.5"),
        ({"kd_weight": -0.1}, "--kd-weight -0.1"),
        ({"kd_weight": float("nan")}, "--kd-weight nan"),
        ({"teacher_temperature": 0.0}, "--teacher-temperature 0.0"),
        ({"student_temperature": -1.0}, "--student-temperature -1.0"),
        ({"teacher_temperature": float("inf")}, "--teacher-temperature inf"),
        ({"label_smoothing": 1.0}, "--label-smoothing 1.0"),
        ({"kd_scale": "much"}, "--kd-scale much"),
        ({"kd_scale": "0"}, "--kd-scale 0"),
        ({"kd_scale": "-1"}, "--kd-scale -1"),
        ({"teacher": None}, "needs a teacher"),
        ({"teacher": None, "kd_weight": 0.0, "teacher_temperature": 2.0}, "no effect without --teacher"),
        ({"teacher": None, "kd_weight": 0.0, "student_temperature": 2.0}, "no effect without --teacher"),
        ({"teacher": None, "kd_weight": 0.0, "teacher_dtype": "float16"}, "no effect without --teacher"),
        ({"teacher": None, "kd_weight": 0.0, "teacher_data": "x"}, "no effect without --teacher"),
        ({"teacher": None, "kd_weight": 0.0, "trust_checkpoint": "x"}, "no effect without --teacher"),
        ({"teacher": None, "kd_weight": 0.0, "kd_valid": True}, "no effect without --teacher"),
        ({"teacher": None, "kd_weight": 0.0, "kd_divergence": "js"}, "no effect without --teacher"),
        ({"teacher": None, "kd_weight": 0.0, "kd_top_k": 8}, "no effect without --teacher"),
        ({"kd_weight": 1.0, "label_smoothing": 0.1}, "no effect with --kd-weight 1"),
        ({"js_beta": 0.3}, "--js-beta 0.3 has no effect with --kd-divergence kl"),
        ({"kd_divergence": "js", "js_beta": 1.0}, "--js-beta 1.0"),
        ({"kd_divergence": "mse", "student_temperature": 2.0}, "no effect with --kd-divergence mse"),
        ({"kd_top_k": -1}, "--kd-top-k -1"),
        ({"ignore_prefix_size": -1}, "--ignore-prefix-size -1"),
        ({"kd_select_rate": 0.2}, "--kd-select-rate 0.2 has no effect without --kd-select"),
        ({"kd_select": "batch", "kd_select_rate": 0.0}, "--kd-select-rate 0.0"),
        ({"kd_select": "batch", "kd_queue_size": 5}, "no effect with --kd-select batch"),
        ({"kd_select": "global", "kd_queue_size": 0}, "--kd-queue-size 0"),
        ({"kd_select": "batch", "kd_weight": 0.0}, "--kd-select batch has no effect with --kd-weight 0"),
        ({"teacher_cache": "c", "kd_top_k": 8}, "no effect with --teacher-cache"),
        ({"teacher_cache": "c", "teacher_dtype": "float16"}, "no effect with --teacher-cache"),
        ({"teacher_cache": "c", "teacher": None, "kd_valid": True}, "--kd-valid needs the teacher"),
        ({"teacher_cache": "c", "teacher": None, "teacher_data": "x"}, "no effect without --teacher"),
        ({"kd_weight": 0.0, "kd_scale": "2"}, "no effect with --kd-weight 0"),
        ({"trust_checkpoint": "other.pt"}, "is not the teacher"),
    ],
)
def test_options_out_of_range_or_without_effect_are_errors(options, message):
    defaults = {"teacher": "t.pt", "sentence_avg": False}
    check_options(KDWordConfig(**defaults))
    with pytest.raises(KDError, match=message.replace(".", r"\.")):
        check_options(KDWordConfig(**(defaults | options)))
