"""The rules of `fairseq-kd partition` on sentences in memory."""

import json
import math
import xml.etree.ElementTree as ElementTree
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from fairseq_kd.core.errors import KDError
from fairseq_kd.partition.differences import differences, jensen_shannon
from fairseq_kd.partition.dividing import divide, settle
from fairseq_kd.partition.options import PartitionOptions
from fairseq_kd.partition.plot import draw
from fairseq_kd.partition.rules import RULES
from fairseq_kd.partition.sentences import Sentences, read_text
from fairseq_kd.partition.shares import apportion, dirichlet, share_groups
from fairseq_kd.partition.tables import page
from fairseq_kd.partition.words import Vocabulary, split_words

ALPHAS = st.sampled_from([0.0, 5e-324, 1e-300, 1e-10, 0.01, 0.5, 1.0, 1e6, 1e15, 1e308, math.inf])
CASES = settings(max_examples=40, deadline=None)


def sentences(lines, targets=None, vocabularies=None):
    """Sentences of text. vocabularies: side -> Vocabulary of the training set, of which `lines` are another subset."""
    if vocabularies is None:
        return read_text({"source": iter(lines), "target": iter(targets or lines)}, len(lines))
    words = {side: found.number(map(split_words, lines), training=False) for side, found in vocabularies.items()}
    return Sentences({side: np.array([len(split_words(line)) for line in lines]) for side in words}, words, "words")


def divided(lines, by, parts, domains=None, others=None, **options):
    """The division of lines; others: subset -> lines. Sources and targets are the same."""
    options = settle(PartitionOptions(parts, by, **options), domains or [], plot=False)
    train = sentences(lines)
    known = {side: Vocabulary(words.vocabulary) for side, words in train.words.items()}
    others = {name: sentences(found, vocabularies=known) for name, found in (others or {}).items()}
    return divide({"train": train} | others, options, domains or {})


def sizes(division) -> list[int]:
    return np.bincount(division.parts["train"], minlength=division.number).tolist()


@CASES
@given(ALPHAS, st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_shares_are_a_distribution_for_every_alpha(alpha, parts, seed):
    shares = dirichlet(alpha, parts, np.random.default_rng(seed))
    assert shares.shape == (parts,) and (shares >= 0).all()
    assert shares.sum() == pytest.approx(1)
    if alpha <= 1e-300:
        assert sorted(shares)[-1] == 1
    if alpha >= 1e15:
        assert shares == pytest.approx(np.full(parts, 1 / parts), rel=1e-5)


@pytest.mark.parametrize("alpha", [0.02, 0.5, 3.0])
def test_mean_and_variance_of_the_shares_are_those_of_the_dirichlet_distribution(alpha):
    """Of Dirichlet(a, ..., a) over n: mean 1/n, variance (n - 1) / (n² (n a + 1)) (Johnson & Kotz)."""
    rng, n = np.random.default_rng(7), 4
    drawn = np.array([dirichlet(alpha, n, rng) for _ in range(10_000)])
    assert drawn.mean(axis=0) == pytest.approx(np.full(n, 1 / n), abs=0.015)
    assert drawn.var(axis=0) == pytest.approx(np.full(n, (n - 1) / (n**2 * (n * alpha + 1))), rel=0.08)


@CASES
@given(st.integers(0, 10_000), st.lists(st.integers(0, 50), min_size=1, max_size=9).filter(any))
def test_whole_numbers_of_a_total_differ_by_less_than_one_from_the_shares(total, weights):
    shares = np.array(weights) / sum(weights)
    counts = apportion(total, shares)
    assert counts.sum() == total
    for count, weight in zip(counts.tolist(), weights, strict=True):
        assert abs(count - Fraction(total * weight, sum(weights))) < 1 + Fraction(1, 10**6)


def test_equal_remainders_go_to_the_parts_with_the_fewest_sentences():
    assert apportion(5, np.full(3, 1 / 3)).tolist() == [2, 2, 1]
    assert apportion(5, np.full(3, 1 / 3), np.array([9, 7, 8])).tolist() == [1, 2, 2]


@CASES
@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), ALPHAS, st.integers(1, 8), st.integers(0, 999))
def test_groups_are_divided_without_rest_and_no_part_grows_far_above_the_mean(groups, alpha, parts, seed):
    table = share_groups(np.array(groups), alpha, parts, np.random.default_rng(seed))
    assert (table >= 0).all() and table.sum(axis=1).tolist() == groups
    assert table.sum(axis=0).max() <= sum(groups) / parts + max(groups)  # FedML's rule: no group for a full part
    if alpha == math.inf:
        assert np.ptp(table.sum(axis=0)) <= 1
        assert (table.max(axis=1) - table.min(axis=1)).max() <= 1


WORDS = [f"w{number}" for number in range(40)]
LINES = st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join), min_size=2, max_size=60)


@CASES
@given(LINES, st.sampled_from(["uniform", "quantity", "length", "vocabulary"]), st.data())
def test_every_sentence_is_in_one_part_and_no_part_is_empty(lines, by, data):
    parts = data.draw(st.integers(2, len(lines)))
    options = {"alpha": data.draw(ALPHAS)} if by == "quantity" else {}
    first, again = (divided(lines, by, parts, others={"test": lines[:7]}, **options) for _ in range(2))
    assert sum(sizes(first)) == len(lines) and min(sizes(first)) >= 1
    if by != "quantity":
        assert np.ptp(sizes(first)) <= 1
    for subset in ("train", "test"):
        found = first.parts[subset]
        assert found.tolist() == again.parts[subset].tolist()
        assert len(found) == (len(lines) if subset == "train" else len(lines[:7]))
        assert set(found) <= set(range(parts))
    members = np.concatenate([first.members("train", part) for part in range(parts)])
    assert sorted(members) == list(range(len(lines)))


@CASES
@given(st.lists(st.sampled_from("abcdef"), min_size=6, max_size=60), ALPHAS, st.integers(2, 4), st.integers(0, 99))
def test_domains_are_whole_at_alpha_0_and_equal_at_infinity(labels, alpha, parts, seed):
    lines = [f"word{number}" for number in range(len(labels))]
    try:
        found = divided(lines, "domain-file", parts, {"train": labels}, alpha=alpha, seed=seed)
    except KDError as error:  # a draw with a small alpha can leave a part empty
        assert alpha < 0.5 or len(set(labels)) < parts
        assert f"--alpha {alpha:g}" in str(error)
        return
    of = found.parts["train"]
    counts = np.array([[sum(of[i] == p for i in range(len(of)) if labels[i] == x) for p in range(parts)]
                       for x in sorted(set(labels))])  # fmt: skip
    assert counts.tolist() == found.found["sentences_of_groups"]
    if alpha == 0:
        assert ((counts > 0).sum(axis=1) == 1).all()
    if alpha == math.inf:
        assert np.ptp(counts, axis=1).max() <= 1


def test_whole_domains_go_to_the_part_with_the_fewest_sentences():
    """Sizes 5, 4, 3, 2: part 1 gets 5, part 2 gets 4 and 3, part 1 gets 2."""
    labels = [*"aaaaa", *"bbbb", *"ccc", *"dd"]
    found = divided(labels, "domain-file", 2, {"train": labels, "test": ["d", "b", "c"]}, others={"test": [*"dbc"]})
    assert [part + 1 for part in found.parts["train"]] == [1] * 5 + [2] * 4 + [2] * 3 + [1] * 2
    assert [part + 1 for part in found.parts["test"]] == [1, 2, 2]


def test_length_bands_by_hand():
    """Lengths 3 1 2 1 3 2 1: sorted 1 1 1 2 2 3 3, so three parts have 3, 2 and 2 sentences."""
    lines = [" ".join("x" * length) for length in (3, 1, 2, 1, 3, 2, 1)]
    others = {"test": [" ".join("x" * length) for length in (1, 2, 3, 9)]}
    found = divided(lines, "length", 3, others=others)
    assert [part + 1 for part in found.parts["train"]] == [3, 1, 2, 1, 3, 2, 1]
    assert [part + 1 for part in found.parts["test"]] == [1, 2, 3, 3]
    ties = divided(["a"] * 5, "length", 2)
    assert ties.parts["train"].tolist() == [0, 0, 0, 1, 1]


SEA = ["ship sea wave sail", "wave ship sail", "sea sail wave", "sail ship sea", "wave sea ship"]
FOOD = ["bread oven salt flour", "salt bread flour", "oven flour salt", "flour bread oven", "salt oven bread"]


def test_two_obvious_topics_are_two_parts_at_alpha_0():
    lines = [line for pair in zip(SEA, FOOD, strict=True) for line in pair] * 2
    lines += [f"the x{number} and" for number in range(200)]  # so that no topic word is in more than a tenth
    topics = divided(lines, "topic", 2, topics=3, alpha=0, others={"test": ["a sail on a wave", "bread and salt"]})
    of = topics.parts["train"]
    groups = dict(zip(topics.found["groups"], map(sum, topics.found["sentences_of_groups"]), strict=True))
    assert sorted(groups.values()) == [10, 10, 200]
    assert len(set(of[0:20:2])) == len(set(of[1:20:2])) == 1
    names = sorted(sorted(name.split()) for name, size in groups.items() if size == 10)
    assert names == [["bread", "flour", "oven", "salt"], ["sail", "sea", "ship", "wave"]]
    assert topics.parts["test"].tolist() == [of[0], of[1]]


def test_topics_depend_on_the_seed_alone():
    rng = np.random.default_rng(3)
    lines = [" ".join(rng.choice(WORDS, 5)) for _ in range(300)]
    first, again, other = (divided(lines, "topic", 3, alpha=0.3, seed=seed) for seed in (5, 5, 6))
    assert first.parts["train"].tolist() == again.parts["train"].tolist() != other.parts["train"].tolist()
    assert len(first.found["groups"]) == 10
    assert sum(map(sum, first.found["sentences_of_groups"])) == 300


def test_sentences_with_the_same_rare_word_are_together():
    """Four names, each in four sentences; words of all sentences are not rare."""
    names = ["anna", "bert", "carl", "dora"]
    lines = [f"now {names[number % 4]} goes" for number in range(16)]
    found = divided(lines, "vocabulary", 2, others={"test": ["now dora", "carl", "now", "now", "now"]})
    of = found.parts["train"]
    assert sizes(found) == [8, 8]
    assert all(len(set(of[number::4])) == 1 for number in range(4))
    assert found.parts["test"].tolist() == [of[3], of[2], 0, 1, 0]
    assert found.found["sides"]["source"]["mean_rare_overlap"] == 0
    assert found.found["sides"]["source"]["chance"]["mean_rare_overlap"] > 0


@CASES
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=20))
def test_jensen_shannon_is_scipys(counts):
    p, q = np.array(counts).T
    if p.sum() and q.sum():
        wanted = jensenshannon(p, q, base=2) ** 2
        assert jensen_shannon(p, q) == pytest.approx(0 if math.isnan(wanted) else wanted, abs=1e-9)


def test_differences_by_hand():
    """Part 1: a a b. Part 2: a c c. Types a, b and c; a, b, c: 3, 1, 2 of 6."""
    found = differences(sentences(["a b", "a c c", "a"], ["x", "y y", "z"]), np.array([0, 1, 0]), 2)
    assert [row["sentences"] for row in found["parts"]] == [2, 1]
    first, second = (row["source"] for row in found["parts"])
    assert (first["tokens"], first["mean_length"], first["types"]) == (3, 1.5, 2)
    assert (second["tokens"], second["mean_length"], second["types"]) == (3, 3.0, 2)
    # p = (2/3, 1/3, 0), q = (1/3, 0, 2/3), m = (1/2, 1/6, 1/3), each term in bits
    kl_p = 2 / 3 * math.log2(4 / 3) + 1 / 3 * math.log2(2)
    kl_q = 1 / 3 * math.log2(2 / 3) + 2 / 3 * math.log2(2)
    source, target = found["sides"]["source"], found["sides"]["target"]
    assert source["jsd"][0][1] == source["jsd"][1][0] == pytest.approx((kl_p + kl_q) / 2, abs=1e-6)
    assert source["jsd"][0][0] == 0 and target["jsd"][0][1] == 1
    assert source["overlap"] == [[1, 0.5], [0.5, 1]] and target["overlap"] == [[1, 0], [0, 1]]
    assert source["rare_overlap"] == [[1, 1], [1, 1]]  # a alone is in two sentences or more
    assert target["rare_overlap"] == [[None, None], [None, None]] and target["mean_rare_overlap"] is None
    text = page(found | {"groups": ["a|b"], "sentences_of_groups": [[2, 1]]}, "title")
    assert "| 1 | 2 | 3 / 2 | 1.50 / 1.00 | 2 / 2 |" in text and "| a\\|b | 2 | 1 | 3 |" in text


def test_the_picture_is_the_same_for_the_same_figures_and_shows_them():
    found = differences(sentences(["a b", "a c c", "a"]), np.array([0, 1, 0]), 2)
    svg = draw(found)
    assert svg == draw(json.loads(json.dumps(found)))
    ElementTree.fromstring(svg)
    assert f"{found['sides']['source']['jsd'][0][1]:.3f}" in svg and "sentences" in svg


def test_words_of_any_script():
    assert split_words("Don't STOP, 3 Äpfel!") == ["don", "t", "stop", "3", "äpfel"]
    assert split_words("我吃 banana。") == ["我", "吃", "banana"]
    assert split_words("नमस्ते दुनिया") == ["नमस्ते", "दुनिया"]


@pytest.mark.parametrize(
    ("by", "options", "said"),
    [
        ("uniform", {"parts": 1}, "--parts 1: must be at least 2"),
        ("uniform", {"alpha": 1.0}, "--alpha has no effect with --by uniform"),
        ("uniform", {"min_sentences": 2}, "--min-sentences has no effect with --by uniform"),
        ("uniform", {"topics": 2}, "--topics has no effect with --by uniform"),
        ("uniform", {"domains": {"train": ["a"] * 6}}, "--domains has no effect with --by uniform"),
        ("length", {"seed": 1}, "--seed has no effect with --by length"),
        ("vocabulary", {"seed": 1}, "--seed has no effect with --by vocabulary"),
        ("quantity", {"alpha": -0.1}, "--alpha -0.1: must be 0 or above"),
        ("quantity", {"alpha": math.nan}, "--alpha nan: must be 0 or above"),
        ("quantity", {"seed": -1}, "--seed -1: must be 0 or above"),
        ("quantity", {"min_sentences": 0}, "--min-sentences 0: must be at least 1"),
        ("quantity", {"min_sentences": 3}, "--parts 3 with --min-sentences 3 is more than 6 sentences can fill"),
        ("uniform", {"parts": 7}, "--parts 7 is more than 6 sentences can fill"),
        ("topic", {"topics": 0}, "--topics 0: must be at least 1"),
        ("topic", {}, "--topics 10: 6 sentences with 0 words"),
        ("domain-file", {}, "--by domain-file needs --domains FILE"),
        ("domain-file", {"domains": {"train": [*"ababab"]}}, "--domains has 2 different labels, and --parts 3 needs"),
        (
            "domain-file",
            {"domains": {"train": [*"abcabc"]}, "seed": 1},
            "--seed has no effect with --by domain-file wit",
        ),
        ("domain-file", {"domains": {"train": [*"aaaaaa"]}, "alpha": 0.0}, "--alpha 0: each of 1,000 draws leaves"),
        (
            "domain-file",
            {"domains": {"train": [*"abcabc"], "test": ["z"]}, "others": {"test": ["a"]}},
            "the labels of test have 'z', which no training sentence has",
        ),
        ("words", {}, "--by words: must be one of uniform, quantity"),
    ],
)
def test_what_cannot_be_divided_is_one_clear_error(by, options, said):
    with pytest.raises(KDError) as error:
        divided(["a b", "c", "d", "e e e", "f", "g"], by, options.pop("parts", 3), **options)
    assert said in str(error.value)


def test_sentences_that_make_too_few_topics_are_an_error():
    lines = ["p q", "r s"] * 5 + [f"x{number}" for number in range(100)]
    with pytest.raises(KDError, match="make only 3 topics"):
        divided(lines, "topic", 2, topics=6)


def test_a_topic_needs_scikit_learn_and_the_plot_matplotlib(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(KDError, match=r"--by topic needs scikit-learn.*fairseq_kd\[collaboration\]"):
        settle(PartitionOptions(2, "topic"), [], plot=False)
    with pytest.raises(KDError, match=r"the plot of the parts needs matplotlib.*--no-plot"):
        settle(PartitionOptions(2, "uniform"), [], plot=True)


def test_every_rule_says_what_it_does_and_where_it_is_from():
    assert list(RULES) == ["uniform", "quantity", "length", "topic", "vocabulary", "domain-file"]
    for rule in RULES.values():
        assert len(rule.summary) > 20 and len(rule.source) > 20
