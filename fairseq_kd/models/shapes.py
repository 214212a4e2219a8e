"""The shape of a student that comes nearest to a wished number of parameters.

The rule, for encoder and decoder alike:

    width         a multiple of 8 below 128, of 32 below 512, of 64 from there
    heads         width / head size; the head size is 64 from width 512, below it the largest of 32, 16 and 8 that fits
    inner width   a multiple of 8 between 2 and 6 times the width
    layers        3 per side below 12 million parameters, else 6; another number from 1 to 6 only where no shape with
                  that many comes within 1 % of the wish

Among the shapes within 1 % of the wish, the one whose inner width is nearest to 4 times the width is taken. If there
are none, the nearest shape is taken.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from fairseq_kd.core.errors import KDError
from fairseq_kd.models.sublayers import inner_width

WIDTHS = (*range(8, 128, 8), *range(128, 512, 32), *range(512, 2049, 64))
LEAST, USUAL, MOST = 2, 4, 6  # inner width / width
FEW_LAYERS, MANY_LAYERS, MANY_FROM = 3, 6, 12_000_000
TOLERANCE = 0.01
UNITS = {"": 1, "k": 1_000, "m": 1_000_000}


@dataclass(frozen=True)
class Shape:
    """The dimensions of a student. ffn: of a plain network; a gated linear unit takes two thirds of it."""

    width: int
    ffn: int
    encoder_layers: int
    decoder_layers: int

    @property
    def heads(self) -> int:
        """Attention heads."""
        sizes = (64, 32, 16, 8) if self.width >= 512 else (32, 16, 8)
        return self.width // next(size for size in sizes if self.width % size == 0)

    def options(self) -> list[str]:
        """As options of fairseq-train for kd_student and kd_adaptive, whose decoder follows the encoder."""
        dimensions = {"embed-dim": self.width, "ffn-embed-dim": self.ffn, "attention-heads": self.heads}
        words = [word for name, value in dimensions.items() for word in (f"--encoder-{name}", str(value))]
        layers = ("--encoder-layers", str(self.encoder_layers), "--decoder-layers", str(self.decoder_layers))
        return [*words, *layers]

    def parameters(self, entries: int, ffn_type: str = "plain") -> int:
        """The number of parameters of a pre-norm student. entries: rows of all different embeddings."""
        d, inner = self.width, inner_width(self.ffn, ffn_type)
        attention, norm = 4 * (d * d + d), 2 * d
        ffn = (2 if ffn_type == "plain" else 3) * d * inner + (1 if ffn_type == "plain" else 2) * inner + d
        encoder = self.encoder_layers * (attention + ffn + 2 * norm) + norm
        decoder = self.decoder_layers * (2 * attention + ffn + 3 * norm) + norm
        return entries * d + encoder + decoder


def read_number(text: str) -> int:
    """A number of parameters: 3000000, 3M, 2.5m, 800k. Raises KDError for other text."""
    found = re.fullmatch(r"(\d[\d,_]*(?:\.\d+)?)([kKmM]?)", text.strip())
    number = found and round(float(re.sub("[,_]", "", found[1])) * UNITS[found[2].lower()])
    if not number:
        raise KDError(f"--parameters {text}: must be a number above 0, such as 3000000, 3M or 800k")
    return number


def nearest_shape(wish: int, entries: int, ffn_type: str = "plain", layers=(None, None)) -> Shape:
    """The shape for `wish` parameters by the rule of the module.

    entries: rows of all different embeddings. layers: of encoder and decoder where they are given, else None.
    """

    def error(shape: Shape) -> float:
        return abs(shape.parameters(entries, ffn_type) / wish - 1)

    nearest = None
    for depth in _depths(wish, layers):
        shapes = [_best_inner_width(width, wish, entries, ffn_type, depth) for width in WIDTHS]
        if near := [shape for shape in shapes if error(shape) <= TOLERANCE]:
            return min(near, key=lambda shape: abs(math.log(shape.ffn / (USUAL * shape.width))))
        nearest = min([*shapes, *([nearest] if nearest else [])], key=error)
    return nearest


def _depths(wish: int, layers) -> Iterator[tuple[int, int]]:
    """(layers of the encoder, of the decoder), the usual number first."""
    usual = FEW_LAYERS if wish < MANY_FROM else MANY_LAYERS
    seen = set()
    for depth in sorted(range(1, MANY_LAYERS + 1), key=lambda depth: (abs(depth - usual), depth)):
        found = (layers[0] or depth, layers[1] or depth)
        if found not in seen:
            seen.add(found)
            yield found


def _best_inner_width(width: int, wish: int, entries: int, ffn_type: str, depth: tuple[int, int]) -> Shape:
    """The shape of this width and depth that is nearest to the wish."""
    least, most = (Shape(width, ratio * width, *depth) for ratio in (LEAST, MOST))
    low, high = (shape.parameters(entries, ffn_type) for shape in (least, most))
    share = min(1.0, max(0.0, (wish - low) / (high - low)))  # the number of parameters rises evenly
    return Shape(width, 8 * round((least.ffn + share * (most.ffn - least.ffn)) / 8), *depth)
