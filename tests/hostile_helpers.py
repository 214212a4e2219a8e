"""Checkpoints whose options would run code, hang, or take much memory if they were evaluated."""

import argparse

import numpy as np
import torch
from hypothesis import strategies as st

# each creates a folder when it is evaluated with the globals of a module of fairseq
CALLS = (
    "__import__('os').mkdir({marker!r})",
    "[torch.nn.Module['{marker}'] for torch.nn.Module.__class_getitem__ in [__import__('os').mkdir]][0]",
    "[[10] for torch.nn.Module.__class_getitem__ in [os.mkdir] if torch.nn.Module['{marker}'] is None][0]",
    "(lambda: __import__('os').mkdir({marker!r}))()",
    "f'{{__import__(\"os\").mkdir({marker!r})}}'",
    "[*map(__import__('os').mkdir, [{marker!r}])]",
    "(x := __import__('os').mkdir({marker!r}))",
    "{{__import__('os').mkdir({marker!r}): 1}}",
    "exec('import os; os.mkdir({marker!r})')",
    "().__class__.__base__.__subclasses__()",
)
# expressions that are long, that make large values, or that are not literals for another reason
OTHERS = (
    *("9**9**9**9", "10**10**8", "'a' * 10**10", "[[0] * 10000] * 10000 * 10000", "'%99999999999d' % 1", "1 << 10**10"),
    *("(" * 3000, "-" * 4000 + "1", "[" * 1000 + "]" * 1000, "1+" * 2000 + "1", "9" * 5000, "{**{}}", "[*range(9)]"),
    *(
        "[[[[[[0]*99]*99]*99]*99]*99]*99",
        "-1 * ([0] * 99999)",
        "utils",
        "print",
        "x.y",
        "x[0]",
        "x = 1",
        "yield",
        "await x",
    ),
    *("1 if 1 else 2", "1 < 2", "not 1", "~1", "...", "b'ab'", "2 ** 3", "1 / 3", "1 @ 2", "1 and 2", "\x00", "\ud800"),
)


def expressions(marker) -> st.SearchStrategy[str]:
    """Python expressions that are not literals."""
    calls = st.sampled_from([call.format(marker=str(marker)) for call in CALLS])
    atoms = calls | st.sampled_from(OTHERS)
    shapes = [
        "[{}]",
        "({},)",
        "({})",
        "[1] + [{}]",
        "[{}] * 2",
        "{{1: {}}}",
        "[x for x in [{}]]",
        "{} if 1 else 0",
        "-({})",
    ]
    around = st.lists(st.sampled_from(shapes), max_size=4)
    return st.builds(_nest, atoms, around)


def _nest(expression: str, around: list[str]) -> str:
    for shape in around:
        expression = shape.format(expression)
    return expression


def values(marker) -> st.SearchStrategy:
    """Values of an option: expressions as text, as bytes of all kinds, and nested in containers."""
    text = expressions(marker)
    code = text.map(lambda one: one.encode("utf-8", "surrogatepass"))
    arrays = code.map(lambda one: np.frombuffer(one or b" ", dtype=np.uint8).copy())
    atoms = st.one_of(
        text, code, code.map(bytearray), arrays, arrays.map(torch.from_numpy), text.map(lambda one: {one}).filter(len)
    )
    containers = st.sampled_from([lambda x: [x], lambda x: (x,), lambda x: {"a": x}, lambda x: argparse.Namespace(a=x)])
    return st.one_of(text, text, atoms, st.builds(lambda make, value: make(value), containers, atoms))


OPTIONS = {
    "transformer": ("adaptive_softmax_cutoff",),
    "fconv": ("encoder_layers", "decoder_layers", "decoder_attention"),
}


def write_hostile(state: dict, path, arch: str, option: str, value) -> None:
    """Write a checkpoint like `state` with this architecture, in which the option has this value."""
    known = vars(state["cfg"]["model"]) if arch == "transformer" else {}
    model = argparse.Namespace(**known | {"arch": arch, "_name": arch, option: value})
    torch.save(state | {"cfg": state["cfg"] | {"model": model}}, path)
