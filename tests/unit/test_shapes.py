"""fairseq-kd count --parameters: the shape of a wished size, compared with models that are really built."""

import shlex

import pytest
from student_helpers import build_student, size

from fairseq_kd.cli.main import main
from fairseq_kd.core.errors import KDError
from fairseq_kd.models.shapes import WIDTHS, Shape, nearest_shape, read_number

SIZES = ("3M", "9m", "17M", "66M", "146M")


def check_proportions(shape: Shape) -> None:
    assert shape.width in WIDTHS and shape.width % shape.heads == 0 and shape.width // shape.heads in (8, 16, 32, 64)
    assert 2 * shape.width <= shape.ffn <= 6 * shape.width and shape.ffn % 8 == 0
    assert 1 <= shape.encoder_layers <= 6 and 1 <= shape.decoder_layers <= 6


@pytest.mark.parametrize("ffn_type", ["plain", "glu"])
@pytest.mark.parametrize(
    ("wish", "entries"),
    [*((wish, 10_000) for wish in SIZES), ("3M", 32_000), ("9M", 32_000), ("200k", 120), ("3M", 120), ("40k", 60)],
)
def test_the_built_student_has_the_wished_size(wish, entries, ffn_type):
    shape = nearest_shape(read_number(wish), entries, ffn_type)
    check_proportions(shape)
    built = build_student(
        "--arch", "kd_student", *shape.options(), "--ffn-type", ffn_type, types=entries, device="meta"
    )
    assert size(built) == shape.parameters(entries, ffn_type)
    assert size(built) == pytest.approx(read_number(wish), rel=0.01)


def test_the_usual_depth_is_kept_unless_no_shape_of_it_fits():
    assert nearest_shape(9_000_000, 10_000).encoder_layers == 3
    assert nearest_shape(17_000_000, 10_000).encoder_layers == 6
    for wish in range(2_000_000, 40_000_000, 1_000_000):
        shape = nearest_shape(wish, 10_000)
        assert shape.encoder_layers == shape.decoder_layers == (3 if wish < 12_000_000 else 6)
    shape = nearest_shape(9_000_000, 10_000, layers=(12, 1))
    assert (shape.encoder_layers, shape.decoder_layers) == (12, 1)
    assert shape.parameters(10_000) == pytest.approx(9_000_000, rel=0.01)


def test_a_wish_that_cannot_be_met_gives_the_nearest_shape():
    smallest = Shape(8, 16, 1, 1)
    assert nearest_shape(1, 10_000) == smallest
    widest = nearest_shape(10**12, 10_000)
    assert (widest.width, widest.ffn, widest.encoder_layers) == (2048, 6 * 2048, 6)
    between = nearest_shape(1_400_000, 100_000)  # at width 16 and 8 the embeddings alone have 1.6 and 0.8 million
    errors = [
        abs(Shape(width, ffn, depth, depth).parameters(100_000) - 1_400_000)
        for width in (8, 16)
        for ffn in range(2 * width, 6 * width + 1, 8)
        for depth in range(1, 7)
    ]
    assert abs(between.parameters(100_000) - 1_400_000) == min(errors)


@pytest.mark.parametrize(
    "words",
    [
        ("--arch", "kd_student", "--ffn-type", "glu", "--encoder-layers", "4"),
        ("--arch", "kd_adaptive", "--capacity-target", "0.5", "--encoder-learned-pos"),  # gates and positions count too
    ],
)
def test_the_printed_options_build_the_printed_size(data_bin, capsys, words):
    assert main(["count", "--data", str(data_bin), *words, "--parameters", "900k"]) == 0
    options, told, *rest = capsys.readouterr().out.splitlines()
    assert main(["count", "--data", str(data_bin), *shlex.split(options)]) == 0
    counted = capsys.readouterr().out.splitlines()
    assert counted == rest[1:]
    (number,) = [int(line.split()[-1].replace(",", "")) for line in counted if line.startswith("parameters")]
    assert number == pytest.approx(900_000, rel=0.01) and told.startswith(f"{number:,} parameters, ")
    assert ("--encoder-layers 4" in options) == ("4" in words)


def test_a_size_without_a_shape_says_so(data_bin, capsys):
    assert main(["count", "--data", str(data_bin), "--arch", "kd_student", "--parameters", "100"]) == 0
    assert "no shape of sensible proportions comes within 1% of the wish" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--arch", "kd_student_3m", "--parameters", "3M"], "has no effect with --arch kd_student_3m"),
        (["--arch", "transformer", "--parameters", "3M"], "give --arch kd_student or kd_adaptive"),
        (["--arch", "kd_student", "--parameters", "3G"], "--parameters 3G: must be a number"),
        (["--arch", "kd_student", "--parameters", "0"], "--parameters 0: must be a number"),
        (["--arch", "kd_student", "--parameters", "3M", "--encoder-embed-dim=64"], "--encoder-embed-dim cannot go"),
        (["--arch", "kd_student", "--parameters", "3M", "--like", "x.pt"], "--like cannot go with it"),
    ],
)
def test_what_does_not_fit_is_one_error(data_bin, capsys, words, message):
    assert main(["count", "--data", str(data_bin), *words]) == 2
    assert message in capsys.readouterr().err


def test_numbers():
    assert [read_number(text) for text in ("3M", "2.5m", "800k", "3,000,000", "12_000")] == [
        *(3_000_000, 2_500_000, 800_000, 3_000_000, 12_000),
    ]
    for text in ("", "M", "-3M", "3MM", "0.2", "nan"):
        with pytest.raises(KDError):
            read_number(text)
