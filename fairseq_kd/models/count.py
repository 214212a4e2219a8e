"""Count the parameters of an encoder-decoder transformer by part, and the operations of its forward pass.

Operations per target token for L source and L target tokens; one multiplication and one addition count as two:

    2 · (weights of all matrices of encoder, decoder and output projection)
    + 4 · L · (inner width) for each encoder self-attention and encoder-decoder attention
    + 4 · (L + 1) / 2 · (inner width) for each decoder self-attention, which only attends to earlier tokens

The inner width of an attention is heads · head size. The factor 4 covers two products, queries times keys and weights
times values. Source and target are equally long, so the encoder's cost per source token is its cost per target token.
Not counted: embeddings (which are looked up), biases, norms, softmax, activation functions. Decoding one hypothesis
with fairseq's cache takes the same number of operations; a beam of b takes b times the decoder's operations.
"""

from torch import nn

from fairseq_kd.models.gates import GatedLinear, HardConcreteGate

PARTS = {"self_attn": "self-attention", "encoder_attn": "encoder-decoder attention", "fc1": "ffn", "fc2": "ffn"}


def parameters_by_part(model) -> dict[str, int]:
    """Part -> number of parameters, in the order of the model. A tied matrix counts where it appears first."""
    counts = {}
    gates = {id(gate.score) for gate in model.modules() if isinstance(gate, HardConcreteGate)}
    for name, parameter in model.named_parameters():  # names each tensor once
        part = "gates" if id(parameter) in gates else part_of(name)
        counts[part] = counts.get(part, 0) + parameter.numel()
    counts.setdefault("output projection", 0)
    return counts


def parameter_count(model, gates: bool = True) -> int:
    """The number of parameters of a model; tied matrices count once. gates: count the scores of gates too."""
    counts = parameters_by_part(model)
    return sum(number for part, number in counts.items() if gates or part != "gates")


def part_of(name: str) -> str:
    """The part to which a parameter with this name in the model belongs."""
    words = name.split(".")
    if any(word.startswith("embed_") for word in words):
        return "embeddings"
    if "output_projection" in words:
        return "output projection"
    if any("norm" in word for word in words):
        return f"{words[0]} norms"
    found = [PARTS[word] for word in words if word in PARTS]
    return f"{words[0]} {found[0] if found else 'other'}"


def operations_per_token(model, length: int) -> dict[str, float]:
    """Side -> operations per target token, by the formula in the module's docstring. length: L."""
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
