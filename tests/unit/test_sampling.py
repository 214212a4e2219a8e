"""Samples of a model that is being trained: their distribution and form, and that the model stays as it was."""

import copy
import math
from collections import Counter

import pytest
import torch
from fairseq import options, tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from helpers import batch, build

from fairseq_kd.inference import sampling
from fairseq_kd.inference.sampling import SamplingOptions, draw, eval_mode, sample_targets

CROSS_ENTROPY = ("--criterion", "cross_entropy", "--dropout", "0.3")
PLENTY = 1000  # positions


def sources(sample) -> dict:
    return {name: sample["net_input"][name] for name in ("src_tokens", "src_lengths")}


def test_a_drawn_entry_is_the_one_at_a_share_of_the_cumulative_probabilities(monkeypatch):
    """Entries 1 and 3 have 1/4 and 3/4 of the mass; the others have none and are never drawn."""
    probs = torch.tensor([[0.0, 0.5, 0.0, 1.5, 0.0]])  # a row need not add up to 1
    for share, entry in ((0.0, 1), (0.2499, 1), (0.25, 3), (1 - 2**-24, 3)):
        monkeypatch.setattr(sampling.torch, "rand", lambda *shape, share=share: torch.full(shape, share))
        assert draw(probs).tolist() == [[entry]], share


def test_drawn_entries_have_the_frequencies_of_their_probabilities():
    torch.manual_seed(1)
    probs = torch.tensor([0.1, 0.0, 0.2, 0.7])
    counts = Counter(draw(probs.expand(20000, 4)).flatten().tolist())
    assert counts.keys() == {0, 2, 3}
    for entry, count in counts.items():
        p = probs[entry].item()
        assert abs(count - 20000 * p) < 4 * math.sqrt(20000 * p * (1 - p))


@pytest.fixture(scope="module")
def trained(data_bin, teacher):
    """(task, model) with the weights of the teacher, in training mode, with dropout."""
    _, task, model, _ = build(data_bin, *CROSS_ENTROPY)
    model.load_state_dict(torch.load(teacher)["model"])
    return task, model.train()


def lprobs_of(model, net_input, prefix) -> torch.Tensor:
    """ln q of the token after a prefix that begins with EOS, (V,), by a whole forward pass without dropout."""
    with eval_mode(model), torch.no_grad():
        output = model(**net_input, prev_output_tokens=torch.tensor([prefix]))
        lprobs = model.get_normalized_probs(output, log_probs=True)[0, -1]
    lprobs[1] = -math.inf  # padding
    return lprobs


def test_first_and_second_tokens_have_the_frequencies_of_the_students_probabilities(trained):
    task, model = trained
    one = sources(batch(task, [0]))
    copies = {"src_tokens": one["src_tokens"].expand(3000, -1), "src_lengths": one["src_lengths"].expand(3000)}
    torch.manual_seed(3)
    found = sample_targets(model, task.target_dictionary, copies, SamplingOptions(max_len_a=0, max_len_b=2), PLENTY)
    (best, _), *_ = Counter(int(tokens[0]) for tokens in found if len(tokens) > 1).most_common()
    second = [int(tokens[1]) for tokens in found if tokens[0] == best]
    for prefix, drawn in (([2], [int(tokens[0]) for tokens in found]), ([2, best], second)):
        probs, counts = lprobs_of(model, one, prefix).exp(), Counter(drawn)
        assert len(drawn) > 100
        for entry in probs.topk(5).indices.tolist():
            p = probs[entry].item()
            deviation = math.sqrt(len(drawn) * p * (1 - p))
            assert abs(counts[entry] - len(drawn) * p) < 4 * deviation + 1, (prefix, entry)


SMALL = ("--encoder-embed-dim", "16", "--decoder-embed-dim", "16")
OF_ARCH = {
    "transformer_tiny": (),
    "lstm": (*SMALL, "--decoder-out-embed-dim", "16"),
    "fconv": (*SMALL, "--encoder-layers", "[(16, 3)]", "--decoder-layers", "[(16, 3)]"),
}


@pytest.mark.parametrize("arch", OF_ARCH)
def test_the_most_probable_tokens_are_those_of_whole_forward_passes_after_an_update(data_bin, arch):
    """With K = 1 a sample is the greedy translation. A weight or a state that is kept from before would show."""
    torch.manual_seed(5)
    task, model = _student(data_bin, arch)
    sample = batch(task, [0, 3, 5])
    greedy = SamplingOptions(top_k=1, max_len_a=0, max_len_b=6)
    before = sample_targets(model, task.target_dictionary, sources(sample), greedy, PLENTY)
    optimizer = torch.optim.SGD(model.parameters(), lr=5.0)
    model.get_normalized_probs(model(**sample["net_input"]), log_probs=True)[..., 7].sum().neg().backward()
    optimizer.step()
    after = sample_targets(model, task.target_dictionary, sources(sample), greedy, PLENTY)
    assert [tokens.tolist() for tokens in after] != [tokens.tolist() for tokens in before]
    for row, tokens in enumerate(after):
        inputs = sources(batch(task, [int(sample["id"][row])]))
        for at, token in enumerate(tokens.tolist()[:6]):
            assert token == int(lprobs_of(model, inputs, [2, *tokens.tolist()[:at]]).argmax()), (arch, row, at)


def _student(data_bin, arch):
    words = [str(data_bin), "--arch", arch, "--dropout", "0.3", "--optimizer", "sgd", *OF_ARCH[arch]]
    cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), words))
    task = tasks.setup_task(cfg.task)
    return task, task.build_model(cfg.model).train()


@pytest.mark.parametrize(("top_k", "a", "b", "positions", "most"), [(0, 0.5, 3, PLENTY, None), (5, 0, 200, 9, 9)])
def test_a_sample_ends_with_its_only_end_and_holds_no_padding(data_bin, top_k, a, b, positions, most):
    """The student has weights from no training, so any token is drawn. The largest length is in tokens with EOS."""
    _, task, model, _ = build(data_bin, *CROSS_ENTROPY)
    sample = batch(task, range(200))
    most = most or int(a * sample["net_input"]["src_tokens"].size(1) + b) + 1
    torch.manual_seed(1)
    found = sample_targets(model, task.target_dictionary, sources(sample), SamplingOptions(top_k, a, b), positions)
    assert len(found) == 200 and all(tokens.dtype == torch.int64 for tokens in found)
    eos, pad = task.target_dictionary.eos(), task.target_dictionary.pad()
    for tokens in found:
        assert (tokens == eos).nonzero().flatten().tolist() == [len(tokens) - 1]
        assert not (tokens == pad).any()
    lengths = Counter(map(len, found))
    assert max(lengths) == most and len(lengths) > 1  # some reach the largest length, some end before
    assert top_k or lengths[1] > 0  # EOS alone is a sample too


def test_only_the_k_most_probable_tokens_are_drawn(trained):
    task, model = trained
    inputs = sources(batch(task, [2]))
    torch.manual_seed(1)
    for _ in range(5):
        (tokens,) = sample_targets(model, task.target_dictionary, inputs, SamplingOptions(3, 0, 5), PLENTY)
        for at, token in enumerate(tokens.tolist()[:5]):
            assert token in lprobs_of(model, inputs, [2, *tokens.tolist()[:at]]).topk(3).indices.tolist()


def test_a_model_without_finite_outputs_gives_samples_that_end(trained):
    """fairseq reports the training that diverged; the sampling must not end it with another error."""
    task, model = trained
    inputs = sources(batch(task, [2]))
    broken = copy.deepcopy(model)
    with torch.no_grad():
        next(broken.decoder.parameters()).fill_(math.nan)
    (tokens,) = sample_targets(broken, task.target_dictionary, inputs, SamplingOptions(), PLENTY)
    assert tokens.tolist() == [task.target_dictionary.eos()]


def test_each_module_has_its_mode_again_also_after_an_error(trained, monkeypatch):
    task, model = trained
    model.train()
    model.encoder.layers[0].eval()  # one that its owner keeps in eval mode
    before = {name: module.training for name, module in model.named_modules()}
    assert len(set(before.values())) == 2
    inputs, seen = sources(batch(task, range(4))), []

    def failing(self, *args, **kwargs):
        seen.append(any(module.training for module in model.modules()))
        raise RuntimeError("stop")

    try:
        sample_targets(model, task.target_dictionary, inputs, SamplingOptions(), PLENTY)
        assert {name: module.training for name, module in model.named_modules()} == before
        monkeypatch.setattr(sampling._Sampling, "step", failing)
        with pytest.raises(RuntimeError, match="stop"):
            sample_targets(model, task.target_dictionary, inputs, SamplingOptions(), PLENTY)
        assert {name: module.training for name, module in model.named_modules()} == before
        assert seen == [False]
    finally:
        model.train()


def test_sampling_inside_torchs_autocast_takes_no_gradient_from_the_training(trained):
    """Torch keeps a narrow copy of each weight. A copy that is made without gradients has no way back to the weight."""
    task, model = trained
    sample, found = batch(task, range(4)), []
    for samples in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            if samples:
                sample_targets(model, task.target_dictionary, sources(sample), SamplingOptions(), PLENTY)
            torch.manual_seed(1)  # of the dropout
            model(**sample["net_input"])[0].float().square().sum().backward()
        found.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    assert found[0].keys() == found[1].keys() and len(found[0]) > 20
    for name, gradient in found[0].items():
        assert torch.equal(gradient, found[1][name]), name
    assert any(gradient.any() for gradient in found[0].values())
