"""The proximal term of FedProx: --proximal-mu and --proximal-weights of kd_word."""

import pytest
import torch
from criterion_helpers import build_with
from fairseq.trainer import Trainer
from helpers import batch, build, write_checkpoint, write_variant

from fairseq_kd.core.errors import KDError
from fairseq_kd.criterions.proximal import ProximalConfig, check_proximal_options

PLAIN = {"kd_weight": 0.0, "label_smoothing": 0.0, "dropout": 0.0}


@pytest.fixture(scope="module")
def weights(data_bin, tmp_path_factory):
    """A checkpoint whose weights are not those with which the student begins."""
    folder = tmp_path_factory.mktemp("weights")
    write_checkpoint(folder / "start.pt", data_bin)
    write_variant(folder / "start.pt", folder / "global.pt", noise=0.3, updates=1)
    return folder / "global.pt"


def test_the_loss_and_its_gradient_have_mu_times_the_distance_per_unit_of_the_sample_size(data_bin, weights):
    mu, w_t = 0.1, torch.load(weights)["model"]
    _, task, model, plain = build_with(data_bin, **PLAIN)
    sample = batch(task, range(4))
    before, size, _ = plain(model, sample)
    before.backward()
    gradients = {name: w.grad.clone() for name, w in model.named_parameters()}
    model.zero_grad()
    _, _, _, criterion = build_with(data_bin, proximal_mu=mu, proximal_weights=weights, **PLAIN)
    loss, same_size, logged = criterion(model, sample)
    loss.backward()
    squares = sum(
        float((w.detach().double() - w_t[name].double()).square().sum()) for name, w in model.named_parameters()
    )
    assert size == same_size and squares > 1
    assert (loss - before).item() == pytest.approx(size * mu / 2 * squares, rel=1e-4)
    assert float(logged["proximal_loss"]) == pytest.approx(size * mu / 2 * squares, rel=1e-5)
    for name, w in model.named_parameters():
        torch.testing.assert_close(w.grad, gradients[name] + size * mu * (w.data - w_t[name]), rtol=1e-4, atol=1e-4)
    model.eval()
    assert criterion(model, sample)[0].item() == pytest.approx(plain(model, sample)[0].item())
    assert not any("proximal" in name for name in criterion.state_dict())


SGD = ("--criterion", "kd_word", "--kd-weight", "0", "--dropout", "0", "--optimizer", "sgd", "--lr", "0.5")


def trained(data_bin, groups, *options):
    """(weights before, after) of one SGD update by fairseq's trainer. groups: sentences of each batch."""
    cfg, task, model, criterion = build(data_bin, *SGD, "--update-freq", len(groups), "--clip-norm", "0", *options)
    before = {name: w.data.clone() for name, w in model.named_parameters()}
    trainer = Trainer(cfg, task, model, criterion)
    trainer.get_train_iterator(1)
    trainer.train_step([batch(task, group) for group in groups])
    return before, {name: w.data for name, w in trainer.model.named_parameters()}


def test_one_sgd_step_is_w_minus_lr_times_the_gradient_and_mu_times_the_distance(data_bin, weights):
    """w' = w - lr (g + μ (w - w_t)), also where an update has two batches of different sizes."""
    w_t, groups = torch.load(weights)["model"], (range(3), range(3, 10))
    before, plain = trained(data_bin, groups)
    same, found = trained(data_bin, groups, "--proximal-mu", "0.1", "--proximal-weights", weights)
    for name, w in before.items():
        assert torch.equal(same[name], w)
        gradient = (w - plain[name]) / 0.5
        expected = w - 0.5 * (gradient + 0.1 * (w - w_t[name]))
        torch.testing.assert_close(found[name], expected, rtol=0, atol=1e-6)
    assert not torch.equal(plain["encoder.embed_tokens.weight"], found["encoder.embed_tokens.weight"])


def test_parameters_that_are_not_trained_are_left_out(data_bin, weights):
    _, _, model, criterion = build_with(data_bin, proximal_mu=2.0, proximal_weights=weights, **PLAIN)
    w_t = torch.load(weights)["model"]
    for name, w in model.named_parameters():
        w.requires_grad = name == "decoder.layers.0.fc1.bias"
    distance = (model.decoder.layers[0].fc1.bias - w_t["decoder.layers.0.fc1.bias"]).square().sum()
    assert float(criterion.proximal.value(model)) == pytest.approx(float(distance), rel=1e-5)


def test_the_term_is_the_same_under_autocast_and_behind_a_wrapper(data_bin, weights):
    _, _, model, criterion = build_with(data_bin, proximal_mu=1.0, proximal_weights=weights, **PLAIN)
    expected = criterion.proximal.value(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(criterion.proximal.value(model), expected)
    assert torch.equal(criterion.proximal.value(_Wrapped(model)), expected)


class _Wrapped(torch.nn.Module):
    """Names its parameters as DistributedDataParallel does."""

    def __init__(self, module):
        super().__init__()
        self.module = module


def test_a_checkpoint_of_another_shape_is_refused(data_bin, weights, tmp_path):
    state = torch.load(weights)
    state["model"]["decoder.layers.0.fc1.bias"] = torch.zeros(7)
    torch.save(state, tmp_path / "other.pt")
    _, _, model, criterion = build_with(data_bin, proximal_mu=1.0, proximal_weights=tmp_path / "other.pt", **PLAIN)
    with pytest.raises(KDError, match=r"decoder.layers.0.fc1.bias of shape \(32,\), and the checkpoint has one of"):
        criterion.proximal.value(model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"proximal_mu": -0.1, "proximal_weights": "w.pt"}, "--proximal-mu -0.1: must be 0"),
        ({"proximal_mu": float("nan"), "proximal_weights": "w.pt"}, "--proximal-mu nan: must be 0"),
        ({"proximal_mu": 0.1}, "needs --proximal-weights"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(KDError, match=message):
        check_proximal_options(ProximalConfig(kd_weight=0.0, sentence_avg=False, **options))


def test_a_mu_of_0_adds_no_term(data_bin, weights):
    _, _, _, criterion = build_with(data_bin, proximal_mu=0.0, proximal_weights=weights, **PLAIN)
    assert criterion.proximal is None
