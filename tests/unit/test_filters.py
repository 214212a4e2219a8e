"""`fairseq-kd decode`: which pairs the filters drop, in which order, and that they say so."""

import os
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cache_helpers import content
from fairseq.data import Dictionary
from hypothesis import given, settings
from hypothesis import strategies as st
from test_decode import LANGUAGES, awkward, hypotheses, quiet, targets  # noqa: F401
from test_select import reverse, text_of  # noqa: F401

from fairseq_kd.artifacts.derived import SideWriter
from fairseq_kd.artifacts.manifest import read_manifest
from fairseq_kd.core.errors import KDError
from fairseq_kd.inference.opening import open_data
from fairseq_kd.sequence import decode as decode_module
from fairseq_kd.sequence.answers import Answer
from fairseq_kd.sequence.assemble import _same_symbols
from fairseq_kd.sequence.decode_options import DecodeOptions, Hypothesis
from fairseq_kd.sequence.filters.length_model import fit_lengths
from fairseq_kd.sequence.filters.rules import Rule, more_repeats, most_frequent
from fairseq_kd.sequence.filters.verdicts import judge, per_token

EVERY_RULE = {
    "drop_empty": True, "max_length_ratio": 9.0, "max_repeats": 1, "max_length_deviation": 8.0,
    "opusfilter": ('LengthFilter:{"min_length": 0, "max_length": 60}',), "drop_unlikely": 0.2, "max_same_target": 1,
}  # fmt: skip


def test_the_most_frequent_4_gram_is_counted_beyond_that_of_the_source():
    loop = [1, 2] * 4 + [3]  # 1 2 1 2 and 2 1 2 1: three and two times
    assert [most_frequent(tokens) for tokens in ([], [1, 2, 3], [1, 2, 3, 4], [7] * 6, loop)] == [0, 0, 1, 3, 3]
    assert more_repeats(source=[5, 6, 7, 8], target=loop) == 2
    assert more_repeats(source=[9] * 6, target=loop) == 0


def test_a_length_model_worked_by_hand():
    """Targets of twice the source and one more; a tenth of the pairs is wrong, and has no influence on the line."""
    source = np.tile(np.arange(1, 21), 10)
    target = 2 * source + 1
    target[::10] = 90
    model = fit_lengths(source, target)
    assert (model.intercept, model.slope) == pytest.approx((1, 2), abs=0.05)
    assert model.variance == pytest.approx(0, abs=1e-3) and model.pairs == 200
    exact = fit_lengths(source, 2 * source + 1)
    assert exact.deviation(10, 21) == pytest.approx(0, abs=1e-6)
    assert exact.deviation(10, 24) == pytest.approx(3 * 12**0.5, rel=1e-6)  # only the variance of rounding is left
    assert exact.deviation(10, 18) == pytest.approx(-3 * 12**0.5, rel=1e-6)


def test_a_length_model_finds_the_variance_per_token_of_noisy_lengths():
    rng = np.random.default_rng(1)
    source = rng.integers(1, 60, 20_000)
    target = np.maximum(np.round(0.5 + 1.2 * source + rng.normal(size=20_000) * np.sqrt(0.8 * source)), 1)
    target[:1000] = rng.integers(1, 300, 1000)
    order = rng.permutation(20_000)
    model = fit_lengths(source, target)
    assert (model.intercept, model.slope) == pytest.approx((0.5, 1.2), abs=0.15)
    assert model.variance == pytest.approx(0.8, rel=0.2)  # rounding and outliers widen it
    assert fit_lengths(source[order], target[order]) == model


def test_too_few_pairs_for_a_length_model():
    with pytest.raises(KDError, match="9 gold pairs without an empty side are too few to fit lengths, 10 are needed"):
        fit_lengths(np.array([0, *[3] * 9]), np.full(10, 4))
    same = fit_lengths(np.full(10, 4), np.full(10, 6))  # one length: a line through the origin
    assert (same.intercept, same.slope) == (0, 1.5)


def test_the_log_probability_per_token_does_not_depend_on_the_length_penalty():
    total = -6.0  # of 2 tokens and EOS
    tokens = np.zeros(2, np.int64)  # and EOS
    scored = [Hypothesis(tokens, total / 3**penalty) for penalty in (0.0, 1.0, 2.0)]
    assert [per_token(*each) for each in zip(scored, (0.0, 1.0, 2.0), strict=True)] == pytest.approx([-2.0] * 3)
    assert per_token(Hypothesis(tokens, total / 6**2, 6), 2.0) == pytest.approx(-1.0)  # six tokens of the teacher


def plain_verdicts(answers, filters) -> list[str | None]:
    """The reference: pair by pair and rule by rule, in plain Python."""
    reasons = ["odd" if answer.best and len(answer.best.tokens) % 2 else None for answer in answers]
    left = [at for at, answer in enumerate(answers) if answer.best and reasons[at] is None]
    scored = [answers[at].best.score for at in left if not np.isnan(answers[at].best.score)]
    if "drop_unlikely" in filters and scored:
        threshold = sorted(scored)[int(np.floor(filters["drop_unlikely"] * (len(scored) - 1)))]
        for at in left:
            if answers[at].best.score < threshold:
                reasons[at] = "unlikely"
    seen: dict[tuple, int] = {}
    for at in left:
        if "max_same_target" in filters and reasons[at] is None:
            key = tuple(answers[at].best.tokens.tolist())
            seen[key] = seen.get(key, 0) + 1
            reasons[at] = "same_target" if seen[key] > filters["max_same_target"] else None
    return reasons


SENTENCES = st.one_of(
    st.none(), st.tuples(st.lists(st.integers(4, 5), max_size=4), st.sampled_from([-1.0, -2.0, -0.5, float("nan")]))
)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(SENTENCES, max_size=30),
    st.fixed_dictionaries({}, optional={"drop_unlikely": st.floats(0.01, 0.99), "max_same_target": st.integers(1, 3)}),
)
def test_verdicts_are_those_of_plain_python(sentences, filters):
    answers = [
        Answer(number, [] if found is None else [Hypothesis(np.array(found[0], np.int64), found[1])])
        for number, found in enumerate(sentences)
    ]
    dataset = SimpleNamespace(src=[torch.tensor([4, 2])] * len(answers), __len__=None)
    data = type("Data", (), {"src": dataset.src, "__len__": lambda self: len(answers)})()
    odd = Rule("odd", lambda pair: len(pair.target) % 2 == 1)
    verdicts = judge(answers, data, [odd], filters, 1.0)
    expected = plain_verdicts(answers, filters)
    assert [verdicts.rule(number) for number in range(len(answers))] == expected
    table = verdicts.table()
    assert table["dropped"] == {name: expected.count(name) for name in verdicts.names}
    assert (
        table["kept"] + sum(table["dropped"].values())
        == table["pairs"]
        == sum(found is not None for found in sentences)
    )


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (["▁he", "ll", "o", "▁you"], ["▁hello", "▁y", "ou"], True),
        (["▁he", "ll", "o", "▁you"], ["▁hello", "you"], False),
        (["he@@", "llo", "you"], ["hel@@", "lo", "you"], True),
        (["he@@", "llo", "you"], ["hello@@", "you"], False),
        (["▁hello"], ["hello"], True),
        (["a", "b"], ["a b"], True),
        ([], ["▁"], True),
    ],
)
def test_a_copy_is_the_same_text_however_it_is_cut(one, other, same):
    source, target = (Dictionary(), Dictionary())
    ids = [[dictionary.add_symbol(s) for s in side] for dictionary, side in ((source, one), (target, other))]
    task = SimpleNamespace(source_dictionary=source, target_dictionary=target)
    assert _same_symbols(task)(*ids) == same


class LoopingBackend:
    """Answers with the source; every third one is in a loop, every fifth one is always the same."""

    name, max_tokens = "looping", 1

    def __init__(self, dataset):
        self.dataset = dataset

    def translate(self, sentences, advance):
        advance(len(sentences))
        return {int(n): [Hypothesis(self._tokens(int(n)), -0.1 * (n % 11) - 0.1)] for n in sentences}

    def _tokens(self, number: int) -> np.ndarray:
        source = self.dataset.src[number].numpy()[:-1].astype(np.int64)
        if number % 3 == 0:
            return np.tile([10, 11], 6)
        return np.array([12, 13, 14]) if number % 5 == 0 else source


@pytest.fixture
def looping(monkeypatch):
    monkeypatch.setattr(decode_module, "choose_backend", lambda teachers, *rest: LoopingBackend(teachers.dataset))


def made(data_bin, teacher, out, how=None, **more):
    return quiet(data_bin, teacher, out, DecodeOptions(**{"cpu": True, "fallback": "drop"} | (how or {})), **more)


def test_each_pair_counts_for_the_first_rule_that_drops_it(looping, data_bin, teacher, tmp_path):
    how = {"max_repeats": 1, "drop_copies": True, "max_same_target": 2, "drop_unlikely": 0.2}
    manifest = made(data_bin, teacher, tmp_path / "out", how)
    numbers = np.arange(400)
    loops, same = numbers % 3 == 0, (numbers % 3 != 0) & (numbers % 5 == 0)
    likely = [n for n in numbers[same] if n % 11 != 10]  # -1.1 per token is below the quantile
    table = manifest["filtering"]
    assert table["dropped"] == {
        "copy": 400 - int(loops.sum()) - int(same.sum()), "repeats": int(loops.sum()),
        "unlikely": int(same.sum()) - len(likely), "same_target": len(likely) - 2,
    }  # fmt: skip
    assert list(table["dropped"]) == ["copy", "repeats", "unlikely", "same_target"] and table["kept"] == 2
    assert table["unlikely_below"] == pytest.approx(-1.0)
    assert targets(tmp_path / "out") == [[12, 13, 14]] * 2
    assert (tmp_path / "out" / "train.kept.txt").read_text().split() == [str(n) for n in likely[:2]]
    lines = [line.split("\t") for line in (tmp_path / "out" / "train.dropped.tsv").read_text().splitlines()]
    first = {rule: [int(n) for name, n, *_ in lines if name == rule] for rule in table["dropped"]}
    assert first["repeats"] == numbers[loops][:20].tolist() and first["same_target"] == likely[2:22]
    assert [name for name, *_ in lines] == sorted((name for name, *_ in lines), key=list(table["dropped"]).index)
    assert all(source == target for rule, _, source, target in lines if rule == "copy")


@pytest.fixture(scope="module")
def varied(data_bin, tmp_path_factory):
    """A data-bin of 300 sentences of many lengths, some of them empty, with the subword model of `data_bin`."""
    folder = tmp_path_factory.mktemp("varied") / "data"
    shutil.copytree(data_bin, folder, ignore=shutil.ignore_patterns("train.*", "manifest.json", "raw", "subword"))
    rng = np.random.default_rng(2)
    lengths = rng.integers(0, 40, 300)
    for lang in LANGUAGES:
        dictionary = open_data(data_bin, LANGUAGES, "test").source_dictionary
        with SideWriter(folder, f"train.qaa-qab.{lang}", dictionary) as writer:
            for length in lengths:
                writer.add(np.append(rng.integers(4, 60, length), dictionary.eos()))
            writer.close()
    return folder


def test_shards_and_interruptions_give_the_same_bytes(looping, varied, teacher, tmp_path, monkeypatch):
    pytest.importorskip("opusfilter")
    how = {"block_sentences": 80, "post_process": "sentencepiece"}
    manifest = made(varied, teacher, tmp_path / "1", EVERY_RULE, **how)
    counts = manifest["filtering"]["dropped"]
    assert min(counts[name] for name in ("empty", "repeats", "length_deviation", "unlikely", "same_target")) > 0
    for count in (2, 4):
        for shard in range(count):
            made(varied, teacher, tmp_path / str(count), EVERY_RULE, shard=(shard, count), **how)
        assert content(tmp_path / str(count)) == content(tmp_path / "1")
    replace = os.replace
    for stop in (2, 6, 9):  # renames of parts, then of the files of the data-bin
        out, done = tmp_path / f"stopped{stop}", []

        def stopping(*arguments, done=done, stop=stop):
            done.append(arguments)
            if len(done) == stop:
                raise KeyboardInterrupt
            replace(*arguments)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, "replace", stopping)
            made(varied, teacher, out, EVERY_RULE, **how)
        made(varied, teacher, out, EVERY_RULE, **how)
        assert content(out) == content(tmp_path / "1"), stop


def test_the_round_trip_compares_the_source_with_the_target_translated_back(data_bin, teacher, reverse, tmp_path):  # noqa: F811
    """Each value is that of the reverse model's own greedy search over the targets, by sacreBLEU."""
    from sacrebleu.metrics import CHRF

    first = {"cpu": True, "subset": "test", "max_len_b": 20, "backend": "fairseq", "strategy": "greedy"}
    quiet(data_bin, teacher, tmp_path / "all", DecodeOptions(**first))
    forward = tmp_path / "forward"  # its sources are the targets
    shutil.copytree(data_bin, forward, ignore=shutil.ignore_patterns("manifest.json", "test.*", "subword", "raw"))
    dictionary = open_data(data_bin, LANGUAGES, "test").target_dictionary
    for lang in LANGUAGES:
        with SideWriter(forward, f"test.qab-qaa.{lang}", dictionary) as writer:
            for *_, tokens in hypotheses(tmp_path / "all"):
                writer.add(dictionary.encode_line(tokens, add_if_not_exist=False, append_eos=True).long())
            writer.close()
    quiet(forward, reverse, tmp_path / "back", DecodeOptions(**first | {"max_len_b": 200}), teacher_data=data_bin)
    back = [text_of(tokens.split()) for *_, tokens in hypotheses(tmp_path / "back")]
    sources = (data_bin / "raw" / "test.qaa").read_text().splitlines()
    scores = [CHRF().sentence_score(*pair).score for pair in zip(back, [[source] for source in sources], strict=True)]
    least = sorted(scores)[14]
    kept = [number for number, score in enumerate(scores) if score >= least]
    assert 15 < len(kept) < 30 or min(scores) < least
    how = {"min_round_trip_chrf": least, "round_trip": str(reverse)}
    manifest = quiet(data_bin, teacher, tmp_path / "out", DecodeOptions(**first, **how))
    assert manifest["round_trip"]["direction"] == "reverse"
    assert (tmp_path / "out" / "test.kept.txt").read_text().split() == [str(number) for number in kept]
    assert manifest["filtering"]["dropped"] == {"round_trip": 30 - len(kept)}


def test_opusfilter_decides_by_text(data_bin, teacher, tmp_path, looping):
    """CharacterScoreFilter: the corpus is Latin text. RepetitionFilter: twelve tokens in turn are a repetition."""
    pytest.importorskip("opusfilter")
    how = {"opusfilter": ('CharacterScoreFilter:{"scripts": ["Latin", "Latin"]}', 'RepetitionFilter:{"min_length": 1}')}
    manifest = made(data_bin, teacher, tmp_path / "latin", how)
    assert manifest["filtering"]["dropped"]["opusfilter_CharacterScoreFilter"] == 0
    assert manifest["filtering"]["dropped"]["opusfilter_RepetitionFilter"] >= 134
    assert manifest["opusfilter"].startswith("3.")
    with pytest.raises(KDError, match="filters or missing answers drop every sentence .400 opusfilter Char"):
        made(
            data_bin,
            teacher,
            tmp_path / "greek",
            {"opusfilter": ('CharacterScoreFilter:{"scripts": ["Latin", "Greek"]}',)},
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("NoFilter", "--opusfilter NoFilter: must be one of AlphabetRatioFilter, "),
        ("FilterABC", "--opusfilter FilterABC: must be one of AlphabetRatioFilter, "),
        ('RepetitionFilter:{"treshold": 3}', "RepetitionFilter has no parameter treshold"),
        ('RepetitionFilter:{"threshold": 0}', r"cannot be used \(ConfigurationError: threshold"),
        ('CharacterScoreFilter:{"scripts": ["Latin"]}', "failed on the pair .*correct its parameters, or leave it out"),
    ],
)
def test_a_filter_of_opusfilter_that_cannot_be_used(looping, data_bin, teacher, tmp_path, text, message):
    pytest.importorskip("opusfilter")
    with pytest.raises(KDError, match=message):
        made(data_bin, teacher, tmp_path / "out", {"opusfilter": (text,)})
    assert read_manifest(tmp_path / "out") is None


def test_opusfilter_is_not_installed(looping, data_bin, teacher, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "opusfilter", None)
    with pytest.raises(KDError, match=r"--opusfilter needs the package OpusFilter .*pip install 'fairseq_kd\[opus"):
        made(data_bin, teacher, tmp_path / "out", {"opusfilter": ("RepetitionFilter",)})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_repeats": -1}, "--max-repeats -1: must be at least 0"),
        ({"max_length_deviation": 0.0}, "--max-length-deviation 0.0: must be above 0"),
        ({"max_length_ratio": float("nan")}, "--max-length-ratio nan: must be at least 1"),
        ({"qe": "a:b", "min_qe": float("inf")}, "--min-qe inf: must be a finite number"),
        ({"min_qe": 0.5}, "needs --qe"),
        ({"min_round_trip_chrf": 30.0}, "--min-round-trip-chrf needs --round-trip"),
        ({"round_trip": "a.pt"}, "--round-trip a.pt has no effect without --min-round-trip-chrf"),
        ({"round_trip": "a.pt", "min_round_trip_chrf": 101.0}, "must be above 0 and at most 100"),
        ({"drop_unlikely": 1.0}, "--drop-unlikely 1.0: must be above 0 and below 1"),
        ({"max_same_target": 0}, "--max-same-target 0: must be at least 1"),
        ({"opusfilter": ("RepetitionFilter:[1]",)}, "must be CLASS or CLASS:.*JSON"),
        ({"opusfilter": ("os.system:{}",)}, "must be CLASS or CLASS:.*JSON"),
    ],
)
def test_filters_out_of_range_or_without_what_they_need(values, message):
    with pytest.raises(KDError, match=message):
        DecodeOptions(**values)


def test_a_folder_of_an_older_version_has_no_measurements_in_its_parts():
    line = "[[[-0.5,null,[4,5]]],0,null]\n"
    answer = Answer.of_line(3, line)
    assert answer.measured == {} and answer.as_line() == line
