"""Translations that are drawn token by token from a model that is being trained. The model stays as it was.

fairseq's `SequenceGenerator` decodes, as in `fairseq-generate --sampling`, with one sample per source. Three things are
added here:

- The model is in eval mode (no dropout) while it decodes. Afterwards each module has the mode that it had before.
- Autocast of torch keeps the narrow copies of the weights for later products. A copy that was made without gradients
  would give the training no gradients, so none is kept.
- On a CPU a token is drawn by one random number and the cumulative probabilities. `torch.multinomial`, which fairseq
  uses, draws a random number for each entry of the vocabulary there, which takes longer than the decoder.

All random numbers come from torch's generator of the device, which fairseq's trainer seeds for each update. So a
training that is continued draws the same samples.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from fairseq.search import Search
from fairseq.sequence_generator import SequenceGenerator


@dataclass(frozen=True)
class SamplingOptions:
    """How samples are drawn.

    top_k: draw from the K most probable tokens, 0: from all. A sample has at most max_len_a * S + max_len_b tokens and
    EOS, where S is the length of the longest source of the batch with its EOS, as for fairseq's options of these names.
    """

    top_k: int = 0
    max_len_a: float = 1.2
    max_len_b: int = 10


def sample_targets(
    model, dictionary, net_input: dict, options: SamplingOptions, max_positions: int
) -> list[torch.Tensor]:
    """One sample for each of the B sources of a fairseq batch: int64 (length,), on the device of the sources.

    A sample ends with EOS and holds no other EOS and no padding; it can be EOS alone. A sample that reaches the largest
    length gets EOS as its last token, whatever the model prefers.

    model: a supported model without the wrappers for several processes. dictionary: of the target.
    max_positions: the largest length of a sample with its EOS.
    """
    with eval_mode(model), torch.no_grad(), _autocast_without_copies(net_input["src_tokens"].device.type):
        generator = SequenceGenerator(
            [model],
            dictionary,
            max_len_a=options.max_len_a,
            max_len_b=options.max_len_b,
            max_len=min(max_positions, model.max_decoder_positions()),
            min_len=0,
            search_strategy=_Sampling(dictionary, options.top_k),
        )
        found = generator.generate([model], {"net_input": net_input})
    return [hypotheses[0]["tokens"] for hypotheses in found]


@contextlib.contextmanager
def eval_mode(model: torch.nn.Module) -> Iterator[None]:
    """The model is in eval mode inside the block. Afterwards, also after an error, each module has its mode again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _autocast_without_copies(device: str) -> contextlib.AbstractContextManager:
    """The autocast of the caller, on or off, which keeps no copies of weights."""
    is_on, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    return torch.autocast(device, dtype, enabled=is_on, cache_enabled=False)


class _Sampling(Search):
    """fairseq's `Sampling` for one sample per source, see the module."""

    def __init__(self, dictionary, top_k: int):
        super().__init__(dictionary)
        self.top_k = top_k

    def step(self, step, lprobs, scores, prev_output_tokens=None, original_batch_idxs=None):
        """(scores, tokens, beams), each (B, 1), from log-probabilities (B, 1, V). All scores are 0: none is read."""
        lprobs = lprobs.squeeze(1)
        if self.top_k:
            lprobs, tokens = lprobs.topk(self.top_k, dim=-1)  # (B, k)
        probs = lprobs.exp()
        drawn = draw(probs)
        if self.top_k:
            drawn = tokens.gather(1, drawn)
        drawn = drawn.masked_fill(probs.sum(dim=-1, keepdim=True) == 0, self.eos)  # the model's output was not finite
        return torch.zeros_like(drawn, dtype=scores.dtype), drawn, torch.zeros_like(drawn)


def draw(probs: torch.Tensor) -> torch.Tensor:
    """The number of one entry for each row of probabilities (B, V), drawn in proportion to them, (B, 1).

    The rows need not add up to 1. An entry of probability 0 is never drawn, unless the whole row is 0.
    """
    if probs.device.type != "cpu":  # parallel sums of the cumulative probabilities need not increase
        return (probs / torch.empty_like(probs).exponential_()).argmax(dim=-1, keepdim=True)
    cumulative = probs.cumsum(dim=-1)
    total = cumulative[:, -1:]
    value = torch.rand(len(probs), 1) * total
    below = torch.nextafter(total, torch.zeros_like(total))  # the product can be rounded to the total
    found = torch.searchsorted(cumulative, torch.minimum(value, below), right=True)
    return found.clamp_(max=probs.size(1) - 1)
