"""Students without data: built as fairseq-train builds them, on a dictionary made up for the test."""

from types import SimpleNamespace

import torch
from fairseq import utils
from fairseq.data import Dictionary

from fairseq_kd.models.building import parse

SMALL = (
    *("--encoder-embed-dim", "16", "--encoder-ffn-embed-dim", "24", "--encoder-attention-heads", "4"),
    *("--encoder-layers", "2", "--decoder-layers", "2", "--dropout", "0.0"),
)


def dictionary(types: int) -> Dictionary:
    made = Dictionary()
    for number in range(types - len(made)):
        made.add_symbol(f"w{number}")
    return made


def build_student(*options, types=20, seed=1, device="cpu", target_types=None):
    """The model of fairseq-train's options."""
    from fairseq.models import build_model

    cfg = parse(["no-data", *map(str, options)])
    source = dictionary(types)
    task = SimpleNamespace(
        source_dictionary=source, target_dictionary=source if target_types is None else dictionary(target_types)
    )
    utils.set_torch_seed(seed)
    with torch.device(device):
        return build_model(cfg.model, task)


def size(model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def some_input(types=20, seed=5):
    """Three sentences, padded on the sides where fairseq pads; prev_output_tokens begin with </s>."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.randint(4, types, (3, 7), generator=generator)
    fed = torch.randint(4, types, (3, 6), generator=generator)
    fed[:, 0] = 2
    source[1, :3] = 1  # padding on the left
    fed[1, 4:] = 1
    return {"src_tokens": source, "src_lengths": source.ne(1).sum(1), "prev_output_tokens": fed}
