"""The weights of a model with a smaller vocabulary, and the check that it is still the same model.

With logits z over the vocabulary V, the model with the vocabulary K ⊂ V has the same z for the tokens of K, because
each logit depends on its own row of the output matrix only. So

    q(k) = exp z_k / Σ_{j∈K} exp z_j = p(k) / Σ_{j∈K} p(j)

the old probabilities, renormalised over the kept tokens.
"""

import re
import tempfile
from pathlib import Path

import torch

from fairseq_kd.core.errors import KDError
from fairseq_kd.inference.frozen import build_model
from fairseq_kd.pruning.chosen import Chosen
from fairseq_kd.pruning.opening import Opened, configured

# weights with one row per entry: transformers; LSTM (fc_out); convolutional models (fc3, with weight normalisation)
ROWS = re.compile(r"(encoder|decoder)\.(embed_tokens|output_projection|fc_out|fc3)\.(weight|bias|weight_g|weight_v)")
TOLERANCE = 1e-4  # of log-probabilities in float32
LENGTH = 6  # tokens of the sentences that are compared


def pruned_weights(opened: Opened, chosen: Chosen) -> dict[str, torch.Tensor]:
    """The weights of the model with the kept rows, in the types of the checkpoint. Tied weights stay tied."""
    rows = {side: torch.from_numpy(chosen.ids(number)) for number, side in enumerate(("encoder", "decoder"))}
    recorded, weights, tied = opened.state["model"], {}, {}
    for name, value in opened.model.state_dict().items():
        found = ROWS.fullmatch(name)
        if not isinstance(value, torch.Tensor):  # the state of gates
            weights[name] = value
            continue
        kind = recorded[name].dtype if isinstance(recorded.get(name), torch.Tensor) else value.dtype
        place = (value.data_ptr(), value.shape, found and found[1])
        if found and opened.is_joined:
            place = (value.data_ptr(), value.shape)
        if value.numel() == 0 or place not in tied:
            tied[place] = (value[rows[found[1]]] if found else value).to(kind)
        weights[name] = tied[place]
    return weights


def check_same_model(opened: Opened, chosen: Chosen, weights: dict, texts: dict[str, str]) -> int:
    """Build the small model and compare it with the original; return the number of its parameters.

    texts: language -> content of its small dictionary. Raises KDError when the vocabulary enters the model in a way
    that pruning does not know.
    """
    with tempfile.TemporaryDirectory() as folder:
        for lang, text in texts.items():
            (Path(folder) / f"dict.{lang}.txt").write_text(text, encoding="utf-8")
        state = configured(opened, folder) | {"model": dict(weights)}
        try:
            small, task = build_model(opened.path, state, opened.trust)
        except KDError as error:
            raise KDError(
                f"{opened.path} is a {type(opened.model).__name__}, in which weights other than embeddings and output "
                f"depend on the vocabulary, so it cannot be pruned: {error}"
            ) from error
    for side, found in enumerate((task.source_dictionary, task.target_dictionary)):
        symbols = opened.dictionaries[side].symbols
        assert found.symbols == [symbols[number] for number in chosen.ids(side)], "the order of the entries has changed"
    difference = largest_difference(opened, chosen, small)
    if not difference <= TOLERANCE:
        raise KDError(
            f"{opened.path} is a {type(opened.model).__name__}, whose probabilities change by {difference:.2g} (in "
            "log-probabilities) when rows are left out: its vocabulary enters in another way than by embeddings and "
            "output, so it cannot be pruned"
        )
    return size_of(small)


def size_of(model) -> int:
    """The number of parameters; tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def largest_difference(opened: Opened, chosen: Chosen, small) -> float:
    """The largest difference between log-probabilities of the small model and renormalised ones of the original."""
    limits = opened.model.max_positions()
    generator = torch.Generator().manual_seed(1)
    new = [
        torch.randint(0, len(chosen.ids(side)), (4, min(LENGTH, limits[side])), generator=generator) for side in (0, 1)
    ]  # (B, T)
    for tokens, dictionary in zip(new, opened.dictionaries, strict=True):  # padding changes lengths; special ids stay
        tokens[tokens == dictionary.pad()] = dictionary.unk()
    kept = [torch.from_numpy(chosen.ids(side)) for side in (0, 1)]
    old = [kept[side][tokens] for side, tokens in enumerate(new)]
    found, full = (lprobs(model, *tokens) for model, tokens in ((small, new), (opened.model, old)))
    return (found - full[..., kept[1]].log_softmax(dim=-1)).abs().max().item()


def lprobs(model, source: torch.Tensor, fed: torch.Tensor) -> torch.Tensor:
    """Log-probabilities (B, T, V) of the model in eval mode. source, fed (B, T): token ids without padding."""
    model.eval()
    lengths = torch.full((len(source),), source.size(1))
    output = model(src_tokens=source, src_lengths=lengths, prev_output_tokens=fed)
    return model.get_normalized_probs(output, log_probs=True).float()
