import math
import random
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
import regex

from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus.text import SPACES, normalise_spaces
from fairseq_kd.noise.operations import BLOCK_LINES, NoiseOptions, add_noise
from fairseq_kd.noise.side import Vocabulary
from fairseq_kd.noise.text import noise_and_count, noise_lines
from fairseq_kd.noise.units import WIDE_SPACES, find_characters, find_tokens, find_words, find_words_and_characters

ADVERSARIAL = [
    "",
    "   ",
    "one",
    " two  words\r",
    "tab\tand\x0bother\x1cspaces\u00a0here\u2028there\u3000end \ufeff",
    "e\u0301 n\u0303 combining o\u0308\u0323",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7 \U0001f44d\U0001f3fd",
    "\u4e2d\u56fd\u3002 \u0928\u092e\u0938\u094d\u0924\u0947 \u1112\u1161\u11ab",
    " ".join(f"w{i}" for i in range(5000)),
    "\u2028\u00a0",
    "a",
    "last of all",
]
MIX = {"delete": 0.2, "substitute": 0.2, "swap": 0.2}


def pieces(units) -> list[str]:
    return [piece.decode() for piece in units.pieces().to_pylist()]


def block_of(lines) -> bytes:
    return "".join(line + "\n" for line in lines).encode()


def words_of(line: str) -> list[str]:
    return normalise_spaces(line).split(" ") if normalise_spaces(line) else []


def test_words_end_at_the_white_space_that_prepare_knows():
    wide = {chr(c) for c in range(0x80, 0x110000) if not 0xD800 <= c < 0xE000 and SPACES.match(chr(c))}
    assert set(WIDE_SPACES) == wide
    for lines in (ADVERSARIAL, ADVERSARIAL[2:], ["a"], [" "], [""]):
        units = find_words(block_of(lines))
        assert "".join(pieces(units)).encode() == block_of(lines)
        assert pieces(units)[1::2] == [word for line in lines for word in words_of(line)]
        assert np.diff(units.lines).tolist() == [len(words_of(line)) for line in lines]


def test_characters_are_grapheme_clusters():
    units = find_characters(block_of(ADVERSARIAL))
    assert "".join(pieces(units)).encode() == block_of(ADVERSARIAL)
    words = [regex.findall(r"\X", word) for line in ADVERSARIAL for word in words_of(line)]
    assert pieces(units)[1::2] == [char for word in words for char in word]
    assert np.diff(units.groups).tolist() == [len(word) for word in words]


def test_tokens_are_grouped_within_sentences():
    ids = np.array([7, 8, 5, 2, 2, 8, 7, 2], dtype=np.uint16)
    units = find_tokens(ids, ids == 7, eos=2)
    found = [np.frombuffer(piece, np.uint16).tolist() for piece in units.pieces().to_pylist()]
    assert found == [[], [7, 8, 5], [2, 2], [8], [], [7], [2]]
    assert units.lines.tolist() == [0, 1, 1, 3]


def reference(units, groups, delete: float, swap: float, window: int, seed: int) -> str:
    """The definition in block.py, unit by unit, from the same random numbers."""
    cut = pieces(units)
    prefix, content, gaps = cut[0], cut[1::2], cut[2::2]
    rng = np.random.default_rng([seed, 0, 0])
    drawn = rng.random(len(content), dtype=np.float32)
    line_of = np.repeat(np.arange(len(units.lines) - 1), np.diff(units.lines)).tolist()
    group_of = np.repeat(np.arange(len(groups) - 1), np.diff(groups)).tolist()
    gone = [u < np.float32(delete) for u in drawn]
    members = [[i for i, at in enumerate(line_of) if at == line] for line in range(len(units.lines) - 1)]
    bare = [line for line in members if line and all(gone[i] for i in line)]
    for line, u in zip(bare, rng.random(len(bare)), strict=True):
        gone[line[int(u * len(line))]] = False
    left = [i for i in range(len(content)) if not gone[i]]
    order = list(left)
    chosen = []
    for place, i in enumerate(left):
        last = max(p for p, j in enumerate(left) if group_of[j] == group_of[i])
        if np.float32(delete) <= drawn[i] < np.float32(delete + swap) and place < last:
            chosen.append((place, last))
    steps = (
        [1] * len(chosen)
        if window == 1
        else 1 + np.floor(rng.random(len(chosen)) * [min(window, last - place) for place, last in chosen]).astype(int)
    )
    for (place, _), step in zip(chosen, steps, strict=True):
        order[place], order[place + step] = order[place + step], order[place]
    out = prefix
    for place, i in enumerate(left):
        behind = left[place + 1] if place + 1 < len(left) else len(content)
        own = [gaps[k] for k in range(i, behind) if line_of[k] == line_of[i]]
        ends_line = behind == len(content) or line_of[behind] != line_of[i]
        out += content[order[place]] + (own[-1] if ends_line else next((gap for gap in own if gap), ""))
    return out


@pytest.mark.parametrize("find", [find_words, find_characters, find_words_and_characters])
@pytest.mark.parametrize(
    ("delete", "swap", "window"), [(0.5, 0, 1), (0, 0.6, 1), (0, 0.6, 3), (0.4, 0.4, 1), (0.8, 0.2, 2)]
)
def test_arrays_do_what_the_definition_says_unit_by_unit(find, delete, swap, window):
    rng = random.Random(1)
    lines = [line for line in ADVERSARIAL if len(line) < 99]
    lines += [
        "".join(rng.choice("ab\u00e9\u0301 \t\u3000\u4e2d\u0e44") for _ in range(rng.randrange(9))) for _ in range(60)
    ]
    units = find(block_of(lines))
    options = NoiseOptions(delete=delete, swap=swap, swap_window=window)
    for seed in range(3):
        noised = add_noise(units, options, seed=seed, side=0, number=0, vocabulary=None)
        assert noised.data.tobytes().decode() == reference(units, units.groups, delete, swap, window, seed)


@pytest.mark.parametrize("level", ["word", "char"])
@pytest.mark.parametrize(
    "rates", [{"delete": 1.0}, {"substitute": 1.0}, {"swap": 1.0}, {"swap": 0.5, "swap_window": 4}, MIX], ids=str
)
def test_lines_stay_aligned_and_none_becomes_empty(level, rates):
    for seed in range(5):
        noisy = noise_lines(ADVERSARIAL, level=level, **rates, seed=seed)
        assert len(noisy) == len(ADVERSARIAL)
        for before, after in zip(ADVERSARIAL, noisy, strict=True):
            assert bool(words_of(before)) == bool(words_of(after))
            if not words_of(before):
                assert before == after
            if rates == {"swap": 1.0} and level == "word" and words_of(before):
                first, *others = words_of(before)
                assert words_of(after) == [*others, first]


def within_3_standard_errors(done: int, possible: int, rate: float) -> bool:
    return abs(done - rate * possible) <= 3 * math.sqrt(possible * rate * (1 - rate))


@pytest.mark.parametrize(
    "rates", [{"delete": 0.1}, {"substitute": 0.3}, {"swap": 0.1}, {"delete": 0.05, "substitute": 0.1, "swap": 0.2}]
)
def test_realised_rates_are_within_three_standard_errors_on_100_000_sentences(rates):
    """Counted from the output. Each word is the number of its place: a swap at place k leaves k + 1 there."""
    length, sentences = 12, 100_000
    options = NoiseOptions(**rates)
    block = block_of([" ".join(map(str, range(length)))] * BLOCK_LINES)
    vocabulary = Vocabulary.of(pa.table({"unit": [b"y", b"x"], "count": [1, 3]}), "unigram", "test")
    words, substitutes, shifted, counted = 0, Counter(), 0, Counter()
    blocks = sentences // BLOCK_LINES + 1
    for number in range(blocks):
        noised = add_noise(find_words(block), options, seed=5, side=0, number=number, vocabulary=vocabulary)
        found = noised.data.tobytes().decode().split("\n")[:-1]
        words += sum(line.count(" ") + 1 for line in found)
        substitutes.update("".join(found).replace(" ", "").translate({ord(c): None for c in "0123456789"}))
        if rates.keys() == {"swap"}:
            shifted += sum(word == str(place + 1) for line in found for place, word in enumerate(line.split()))
        counted.update({f"done {name}": value for name, value in noised.counts.done.items()})
        counted.update({f"possible {name}": value for name, value in noised.counts.possible.items()})
    total = blocks * BLOCK_LINES * length
    assert total >= sentences * length
    assert within_3_standard_errors(total - words, total, options.delete)
    assert within_3_standard_errors(substitutes.total(), total, options.substitute)
    assert within_3_standard_errors(substitutes["x"], substitutes.total(), 0.75)
    assert (counted["done delete"], counted["done substitute"]) == (total - words, substitutes.total())
    assert within_3_standard_errors(counted["done swap"], counted["possible swap"], options.swap)
    if rates.keys() == {"swap"}:
        assert counted["done swap"] == shifted and counted["possible swap"] == total * (length - 1) // length
    for name in ("delete", "substitute"):
        assert counted[f"possible {name}"] == total


def test_a_word_is_never_replaced_by_itself_and_others_by_their_frequency():
    lines = ["a a a a a a b b b c"] * 4000
    noisy = noise_lines(lines, substitute=1.0, seed=1)
    found = Counter((old, new) for line in noisy for old, new in zip(lines[0].split(), line.split(), strict=True))
    assert not any(old == new for old, new in found)
    for old, new, share in (("a", "b", 3 / 4), ("b", "a", 6 / 7), ("c", "a", 6 / 9)):
        assert within_3_standard_errors(found[old, new], lines[0].count(old) * 4000, share)
    noisy = noise_lines(lines, substitute=1.0, substitute_from="uniform", seed=1)
    found = Counter((old, new) for line in noisy for old, new in zip(lines[0].split(), line.split(), strict=True))
    assert within_3_standard_errors(found["a", "b"], 24000, 1 / 2)


def test_sentence_share_leaves_the_other_sentences_alone():
    lines = [f"{i} a b c d e f g" for i in range(6000)]
    options = {"swap": 1.0, "sentence_share": 0.2, "seed": 1}
    chosen = [old != new for old, new in zip(lines, noise_lines(lines, **options), strict=True)]
    assert within_3_standard_errors(sum(chosen), 6000, 0.2)
    other_side = noise_lines(lines, **options, side="target")
    assert chosen == [old != new for old, new in zip(lines, other_side, strict=True)]


def test_higher_rates_of_one_seed_take_the_same_words_and_more():
    lines = [" ".join(map(str, range(30)))] * 50
    few, more = (noise_lines(lines, delete=rate, seed=1) for rate in (0.1, 0.3))
    for left, left_of_more in zip(few, more, strict=True):
        assert set(left_of_more.split()) < set(left.split())
    assert noise_lines(lines, delete=0.1, seed=2) != few
    assert noise_lines(lines, delete=0.1, seed=1, side="target") != few


def test_subword_level_cuts_what_the_model_makes_of_the_text():
    class Letters:
        """A subword model: the first two letters of a word, then the others."""

        @staticmethod
        def encode(line: str) -> str:
            return " ".join(f"{word[:2]}@@ {word[2:]}" if len(word) > 2 else word for word in line.split())

        @staticmethod
        def decode(line: str) -> str:
            return (line + " ").replace("@@ ", "").strip()

    lines = ["abcd  efgh", "", "  ij\tkl"] * 40
    noisy = noise_and_count(lines, NoiseOptions(level="subword", delete=0.4), 1, subword=Letters)[0]
    assert set(noisy[0::3]) >= {"abcd  efgh", "abefgh", "cd efgh"}  # an untouched line keeps its spaces
    assert noisy[1::3] == [""] * 40 and set(noisy[2::3]) == {"  ij\tkl", "ij", "kl"}
    with pytest.raises(KDError, match="needs subword_model"):
        noise_lines(lines, level="subword", delete=0.4, seed=1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"delete": 1.2}, "--delete 1.2: must be between 0 and 1"),
        ({"delete": -0.1}, "--delete -0.1: must be between 0 and 1"),
        ({"swap": math.nan}, "--swap nan: must be between 0 and 1"),
        ({"delete": 0.5, "substitute": 0.4, "swap": 0.2}, "sum to 1.1"),
        ({}, "no noise is requested"),
        ({"delete": 0.1, "sentence_share": 2}, "--sentence-share 2: must be between"),
        ({"delete": 0.1, "level": "byte"}, "--level byte: must be one of word, subword, char"),
        ({"delete": 0.1, "swap_window": 2}, "--swap-window 2 has no effect without --swap"),
        ({"swap": 0.1, "swap_window": 0}, "--swap-window 0: must be at least 1"),
        ({"swap": 0.1, "substitute_from": "uniform"}, "--substitute-from uniform has no effect"),
        ({"substitute": 0.1, "substitute_from": "zipf"}, "--substitute-from zipf: must be one of"),
    ],
)
def test_impossible_options_are_refused(given, message):
    with pytest.raises(KDError, match=regex.escape(message)):
        NoiseOptions(**given)


def test_unusable_lines_are_refused():
    with pytest.raises(KDError, match="holds 1 different units, so no substitute exists"):
        noise_lines(["a a", "a"], substitute=0.5, seed=1)
    with pytest.raises(KDError, match="a sentence holds a newline"):
        noise_lines(["a\nb"], delete=0.5, seed=1)
    with pytest.raises(KDError, match="^seed -1: must be 0 or above"):
        noise_lines(["a b"], delete=0.5, seed=-1)
