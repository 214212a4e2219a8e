"""Parameters of an encoder-decoder transformer by part, and operations of its forward pass.

Operations a target token, a multiplication and an addition counted as two, for L source and L target tokens:

    2 · (weights of all matrices of encoder, decoder and output projection)
    + 4 · L · (inner width) for each encoder self-attention and encoder-decoder attention
    + 4 · (L + 1) / 2 · (inner width) for each decoder self-attention, which looks back only

where the inner width of an attention is heads · head size, and 4 stands for queries times keys and weights times
values. As many source as target tokens: an encoder pass costs each target token what it costs a source token. Left out:
embeddings (they are looked up), biases, norms, softmax, activation functions. Decoding one hypothesis with fairseq's
cache takes as many; a beam of b takes b times the decoder's.
"""

from torch import nn

from fairseq_kd.models.gates import GatedLinear, HardConcreteGate

PARTS = {"self_attn": "self-attention", "encoder_attn": "encoder-decoder attention", "fc1": "ffn", "fc2": "ffn"}


def parameters_by_part(model) -> dict[str, int]:
    """Part -> number of parameters, in the order of the model; a tied matrix counts where it appears first."""
    counts = {}
    gates = {id(gate.score) for gate in model.modules() if isinstance(gate, HardConcreteGate)}
    for name, parameter in model.named_parameters():  # names each tensor once
        part = "gates" if id(parameter) in gates else part_of(name)
        counts[part] = counts.get(part, 0) + parameter.numel()
    counts.setdefault("output projection", 0)
    return counts


def part_of(name: str) -> str:
    """The part of a parameter, by its name in the model."""
    words = name.split(".")
    if any(word.startswith("embed_") for word in words):
        return "embeddings"
    if "output_projection" in words:
        return "output projection"
    if any("norm" in word for word in words):
        return f"{words[0]} norms"
    found = [PARTS[word] for word in words if word in PARTS]
    return f"{words[0]} {found[0] if found else 'other'}"


def operations_a_token(model, length: int) -> dict[str, float]:
    """Side -> operations a target token; see the module's formula. length: L."""
    counts = {}
    for side in ("encoder", "decoder"):
        linears = [module for module in _distinct_linears(getattr(model, side)) if not _is_output(model, module)]
        counts[side] = 2.0 * sum(linear.weight.numel() for linear in linears)
        for name, module in getattr(model, side).named_modules():
            if name.endswith(("self_attn", "encoder_attn")):
                looked_at = (length + 1) / 2 if (side, name.split(".")[-1]) == ("decoder", "self_attn") else length
                counts[side] += 4.0 * looked_at * module.num_heads * module.head_dim
    projection = model.decoder.output_projection
    counts["output projection"] = 0.0 if projection is None else 2.0 * projection.weight.numel()
    return counts


def _distinct_linears(module) -> list[nn.Linear]:
    return [found for found in module.modules() if isinstance(found, nn.Linear | GatedLinear)]


def _is_output(model, module) -> bool:
    return module is model.decoder.output_projection
