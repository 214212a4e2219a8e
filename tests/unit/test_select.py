"""`fairseq-kd decode --select`: which of the hypotheses becomes the target."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cache_helpers import content
from fairseq.data import Dictionary
from test_decode import LANGUAGES, hypotheses, quiet, targets

from fairseq_kd.artifacts.manifest import read_manifest
from fairseq_kd.cli.main import main
from fairseq_kd.core.errors import KDError
from fairseq_kd.inference.frozen import load_frozen
from fairseq_kd.inference.opening import open_data
from fairseq_kd.scoring.pairwise import sentence_metric
from fairseq_kd.scoring.score import PLAIN
from fairseq_kd.sequence.answers import Answer
from fairseq_kd.sequence.decode import choose_backend
from fairseq_kd.sequence.decode_options import DecodeOptions, Hypothesis
from fairseq_kd.sequence.select import MinimumBayesRisk, posterior
from fairseq_kd.teacher.ensemble import open_teachers


def options(**more) -> DecodeOptions:
    return DecodeOptions(**{"cpu": True, "subset": "test", "nbest": 4, "max_len_b": 20, "backend": "fairseq"} | more)


@pytest.fixture(scope="module")
def reverse(teacher, tmp_path_factory):
    """A model from qab to qaa: the teacher's weights, whose dictionaries and embeddings are shared by both sides."""
    state = torch.load(teacher)
    state["cfg"]["task"]["source_lang"], state["cfg"]["task"]["target_lang"] = LANGUAGES[::-1]
    path = tmp_path_factory.mktemp("reverse") / "reverse.pt"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def n_best(data_bin, teacher, tmp_path_factory):
    """Sentence number -> [(score, tokens as symbols), ...], the four best."""
    out = tmp_path_factory.mktemp("n_best") / "out"
    quiet(data_bin, teacher, out, options())
    return groups(out)


def groups(out) -> list[list[tuple]]:
    """Per sentence: (mark, score, value, symbols) of each hypothesis."""
    found = {}
    for number, _, mark, score, value, tokens in hypotheses(out):
        found.setdefault(int(number), []).append((mark, float(score), value and float(value), tokens.split()))
    return list(found.values())


def text_of(symbols: list[str]) -> str:
    return "".join(symbols).replace("▁", " ").strip()


def chosen(group) -> int:
    return [mark for mark, *_ in group].index("*")


@pytest.mark.parametrize("how", [{"metric": "chrf"}, {"metric": "bleu", "mbr_weights": "model", "lenpen": 3.0}])
def test_mbr_chooses_what_a_plain_loop_over_sacrebleu_chooses(data_bin, teacher, tmp_path, how):
    manifest = quiet(data_bin, teacher, tmp_path / "out", options(select="mbr", **how))
    score, found = sentence_metric(how["metric"], PLAIN), groups(tmp_path / "out")
    choices = []
    for group in found:
        texts = [text_of(symbols) for *_, symbols in group]
        weights = np.ones(len(group))
        if "mbr_weights" in how:  # exp of the log-probability of the whole sentence
            weights = np.exp([lprob * (len(symbols) + 1) ** 3.0 for _, lprob, _, symbols in group])
        expected = [np.average([score(text, other) for other in texts], weights=weights) for text in texts]
        assert [value for _, _, value, _ in group] == pytest.approx(expected, rel=2e-3)  # four digits are written
        choices.append(chosen(group))
        assert expected[choices[-1]] == pytest.approx(max(expected), abs=1e-6)
    assert len(found) == 30 and len(set(choices)) >= 2
    symbols = open_data(data_bin, LANGUAGES, "test").target_dictionary.symbols
    rows = [[symbols[token] for token in row] for row in targets(tmp_path / "out", "test")]
    assert rows == [group[choice][3] for group, choice in zip(found, choices, strict=True)]
    assert manifest["selection"]["weights"] == how.get("mbr_weights", "uniform")


def test_mbr_counts_samples_as_often_as_they_were_drawn_and_prefers_the_first_of_equal_ones():
    texts = SimpleNamespace(post_process="none", target=lambda tokens: " ".join(f"w{token}" for token in tokens))
    samples = [Hypothesis(np.array(tokens), -1.0) for tokens in ([1, 2], [3, 4], [3, 4], [5])]
    answers = [Answer(0, samples), Answer(1, [samples[0], samples[3]])]
    selector = MinimumBayesRisk(texts, "bleu", PLAIN, "uniform", 1.0)
    values = selector.values(answers)
    assert values == [pytest.approx([25, 50, 50, 25]), pytest.approx([50, 50])]
    for answer, row in zip(answers, values, strict=True):
        answer.choose(row)
    assert [answer.chosen for answer in answers] == [1, 0]


def test_rounding_errors_do_not_decide_between_equal_expected_scores():
    texts = SimpleNamespace(post_process="none", target=str)
    selector = MinimumBayesRisk(texts, "chrf", PLAIN, "uniform", 1.0)
    selector._pairwise = SimpleNamespace(expected=lambda groups, weights: [np.array([0.3, 0.1 + 0.2])])
    answer = Answer(0, [Hypothesis(np.array([at]), -1.0) for at in range(2)])
    answer.choose(selector.values([answer])[0])
    assert 0.1 + 0.2 > 0.3 and answer.chosen == 0


def test_the_weight_of_a_hypothesis_is_its_probability_among_the_hypotheses():
    """Log-probabilities ln 3 and 0 of the whole sentences, of 4 and 2 tokens with EOS, divided by T ** 0.5."""
    found = posterior([Hypothesis(np.zeros(3), np.log(3) / 2), Hypothesis(np.zeros(1), 0.0)], 0.5)
    assert found == pytest.approx([0.75, 0.25])
    own = [Hypothesis(np.zeros(3), np.log(3) / 3, 9), Hypothesis(np.zeros(1), 0.0, 1)]  # 9 and 1 tokens of the teacher
    assert posterior(own, 0.5) == pytest.approx([0.75, 0.25])


@pytest.mark.parametrize("backend", ["fairseq", "ctranslate2"])
def test_a_score_is_about_the_tokens_of_the_hypothesis_also_at_the_greatest_length(backend, data_bin, teacher):
    """Without length penalty the score is the log-probability, else this divided by the number to its power."""
    teachers, found = open_teachers(data_bin, str(teacher), "test"), {}
    numbers, lengths = np.arange(30), set()
    for penalty in (0.0, 1.0, 2.0):
        how = options(beam=1, nbest=1, lenpen=penalty, max_len_b=6, backend=backend)
        answers = choose_backend(teachers, how, say=str).translate(numbers, lambda count: None)
        found[penalty] = [answers[number][0] for number in numbers.tolist()]
    for whole, *divided in zip(*found.values(), strict=True):
        for penalty, other in zip((1.0, 2.0), divided, strict=True):
            assert other.score * other.scored_tokens**penalty == pytest.approx(whole.score, rel=1e-4)
        lengths.add((len(whole.tokens), whole.at_limit))
    assert (6, True) in lengths and all(limit == (length == 6) for length, limit in lengths)


def test_targets_of_the_greatest_length_are_counted(data_bin, teacher, tmp_path, capsys):
    words = ["decode", str(data_bin), "--teacher", str(teacher), "--subset", "test", "--max-len-b", "6", "--cpu"]
    words += ["--strategy", "greedy"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    count = sum(len(tokens.split()) == 6 for *_, tokens in hypotheses(tmp_path / "out"))
    assert read_manifest(tmp_path / "out")["targets_at_limit"] == count > 0
    assert f"{count} targets have the greatest length and may lack their ends" in capsys.readouterr().out


def test_an_answer_is_read_as_it_was_written_also_with_the_number_of_tokens_of_its_score():
    written = Answer(3, [Hypothesis(np.array([5, 6]), -0.5, 7), Hypothesis(np.array([8]), float("nan"))], chosen=1)
    read = Answer.of_line(3, written.as_line())
    assert [(h.tokens.tolist(), h.scored, h.scored_tokens) for h in read.hypotheses] == [([5, 6], 7, 7), ([8], None, 2)]
    assert read.hypotheses[0].score == -0.5 and np.isnan(read.hypotheses[1].score) and read.chosen == 1


def test_the_teacher_as_second_model_gives_the_scores_of_its_own_search(data_bin, teacher, tmp_path, n_best):
    quiet(data_bin, teacher, tmp_path / "out", options(select="model", select_model=str(teacher)))
    for group in groups(tmp_path / "out"):
        assert [value for _, _, value, _ in group] == pytest.approx([score for _, score, _, _ in group], rel=2e-3)
        assert chosen(group) == int(np.argmax([score for _, score, _, _ in group]))
    with pytest.raises(KDError, match="was made with select model"):
        quiet(data_bin, teacher, tmp_path / "out", options())


def test_a_reverse_model_scores_the_source_given_each_hypothesis(data_bin, teacher, reverse, tmp_path):
    manifest = quiet(data_bin, teacher, tmp_path / "out", options(select="model", select_model=str(reverse)))
    assert manifest["selection"]["direction"] == "reverse"
    model = load_frozen(reverse).model
    task = open_data(data_bin, LANGUAGES[::-1], "test")
    sources = open_data(data_bin, LANGUAGES, "test").dataset("test").src
    indices = {symbol: index for index, symbol in enumerate(task.source_dictionary.symbols)}
    choices = []
    for source, group in zip(sources, groups(tmp_path / "out"), strict=True):
        expected = []
        for *_, symbols in group:  # one sentence at a time, by the model itself
            given = torch.tensor([[*(indices[symbol] for symbol in symbols), 2]])
            before = torch.cat([torch.tensor([2]), source[:-1]]).long()[None]
            with torch.no_grad():
                output = model(given, torch.tensor([given.shape[1]]), before)
                lprobs = model.get_normalized_probs(output, log_probs=True)[0]
            expected.append(lprobs.gather(-1, source.long()[:, None]).mean().item())
        assert [value for _, _, value, _ in group] == pytest.approx(expected, rel=2e-3)
        choices.append(chosen(group))
        assert expected[choices[-1]] == pytest.approx(max(expected), abs=1e-5)
    assert len(set(choices)) >= 3


def longest(sources, hypotheses):
    """A quality estimate: the longest hypothesis is the best."""
    assert all(isinstance(text, str) and text for text in [*sources, *hypotheses])
    return [float(len(text)) for text in hypotheses]


@pytest.fixture
def module(monkeypatch):
    """A module of the user."""
    found = SimpleNamespace(
        longest=longest,
        short=lambda sources, hypotheses: [1.0],
        infinite=lambda sources, hypotheses: [float("inf")] * len(hypotheses),
        words=lambda sources, hypotheses: ["good"] * len(hypotheses),
        number=3,
    )
    monkeypatch.setitem(sys.modules, "estimates_of_a_test", found)
    return "estimates_of_a_test"


def test_a_quality_estimate_selects_and_filters(data_bin, teacher, tmp_path, n_best, module):
    least = int(np.median([len(text_of(group[0][3])) for group in n_best])) + 1
    how = {"qe": f"{module}:longest", "min_qe": float(least)}
    for name, select in (("best", "best"), ("qe", "qe")):
        manifest = quiet(data_bin, teacher, tmp_path / name, options(select=select, **how))
        lengths = [[len(text_of(symbols)) for *_, symbols in group] for group in n_best]
        wanted = [int(np.argmax(row)) if select == "qe" else 0 for row in lengths]
        assert [chosen(group) for group in groups(tmp_path / name)] == wanted
        kept = [number for number, row in enumerate(lengths) if row[wanted[number]] >= least]
        assert 0 < len(kept) < 30
        assert (tmp_path / name / "test.kept.txt").read_text().split() == [str(number) for number in kept]
        assert manifest["filtering"] == {"pairs": 30, "dropped": {"qe": 30 - len(kept)}, "kept": len(kept)}


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            "short",
            r"--qe .* must return .* per pair \(it returned numbers of shape \(1,\) for 120 pairs\)",
        ),
        ("infinite", r"must return one finite number per pair \(number 0 is inf\)"),
        ("words", r"must return one finite number per pair \(ValueError: .*good"),
        ("number", "is int, not a function: give MODULE:CALLABLE"),
        ("missing", "cannot be imported .*install its package, or correct the name"),
    ],
)
def test_a_quality_estimate_that_cannot_be_used(data_bin, teacher, tmp_path, module, function, message):
    with pytest.raises(KDError, match=message):
        quiet(data_bin, teacher, tmp_path / "out", options(select="qe", qe=f"{module}:{function}"))
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_the_estimate_of_a_user_fails(data_bin, teacher, tmp_path, monkeypatch):
    def broken(sources, hypotheses):
        raise RuntimeError("no memory\nleft")

    monkeypatch.setitem(sys.modules, "broken_estimates", SimpleNamespace(broken=broken))
    with pytest.raises(KDError, match=r"--qe broken_estimates:broken failed \(RuntimeError: no memory left\)"):
        quiet(data_bin, teacher, tmp_path / "out", options(select="qe", qe="broken_estimates:broken"))


@pytest.mark.parametrize("select", [{"select": "mbr", "strategy": "sample"}, {"select": "model"}])
def test_shards_and_an_interruption_give_the_same_bytes(data_bin, teacher, reverse, tmp_path, select, monkeypatch):
    how = options(**select, **({"select_model": str(reverse)} if select["select"] == "model" else {}))
    quiet(data_bin, teacher, tmp_path / "1", how, block_sentences=8)
    assert quiet(data_bin, teacher, tmp_path / "2", how, shard=(1, 2), block_sentences=8) is None
    with monkeypatch.context() as patch:
        choose, calls = Answer.choose, [None] * 11  # it ends in the second block of the other share
        patch.setattr(Answer, "choose", lambda self, values: choose(self, values, *calls.pop(0) or ()))
        with pytest.raises(IndexError):
            quiet(data_bin, teacher, tmp_path / "2", how, block_sentences=8)
    assert len(list((tmp_path / "2" / "parts").glob("*.bin"))) == 3
    quiet(data_bin, teacher, tmp_path / "2", how, block_sentences=8)
    assert content(tmp_path / "2") == content(tmp_path / "1")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"select": "mbr", "nbest": 1}, "--select mbr chooses among several hypotheses: give --nbest 2 or more"),
        ({"mbr_weights": "model"}, "--mbr-weights model has no effect without --select mbr"),
        ({"select": "mbr", "mbr_weights": "model", "strategy": "sample"}, "has no place with --strategy sample"),
        ({"select": "model"}, "--select model needs --select-model"),
        ({"select_model": "a.pt"}, "--select-model a.pt has no effect without --select model"),
        ({"select": "qe"}, "--select qe or --min-qe needs --qe"),
        ({"qe": "a:b"}, "--qe a:b has no effect without --select qe or --min-qe"),
        ({"select": "mbr", "tokenize": "char", "metric": "chrf"}, "--tokenize char has no effect"),
        ({"select": "model", "select_model": "a.pt", "metric": "chrf"}, "--metric chrf has no effect"),
    ],
)
def test_options_that_do_not_go_together(values, message):
    with pytest.raises(KDError, match=message):
        options(**values)


def test_a_second_model_of_other_languages_or_other_dictionaries(data_bin, teacher, tmp_path):
    state = torch.load(teacher)
    state["cfg"]["task"]["source_lang"] = state["cfg"]["task"]["target_lang"] = "qab"
    torch.save(state, tmp_path / "same.pt")
    how = options(select="model", select_model=str(tmp_path / "same.pt"))
    with pytest.raises(KDError, match="translates qab-qab, the teacher qaa-qab: give a model of the same languages"):
        quiet(data_bin, teacher, tmp_path / "out", how)
    moved = tmp_path / "moved"
    moved.mkdir()
    for lang in LANGUAGES:
        dictionary = Dictionary.load(str(data_bin / f"dict.{lang}.txt"))
        dictionary.symbols[10], dictionary.symbols[11] = dictionary.symbols[11], dictionary.symbols[10]
        dictionary.save(str(moved / f"dict.{lang}.txt"))
    state = torch.load(teacher)
    state["cfg"]["task"]["data"] = str(moved)
    torch.save(state, tmp_path / "other.pt")
    how = options(select="model", select_model=str(tmp_path / "other.pt"))
    with pytest.raises(KDError, match="first difference is at index 10"):
        quiet(data_bin, teacher, tmp_path / "out", how)
    how = options(min_round_trip_chrf=10.0, round_trip=str(teacher))
    with pytest.raises(KDError, match="translates qaa-qab like the teacher: give a model of the other direction"):
        quiet(data_bin, teacher, tmp_path / "out", how)
    assert not (tmp_path / "out").exists()


def test_monolingual_text_has_mbr_and_no_closest(data_bin, teacher, tmp_path, corpus, capsys):
    text = tmp_path / "text"
    text.write_text("".join(f"{line}\n" for line in (corpus / "train.qaa").read_text().splitlines()[:12]))
    command = ["decode", "--source-text", str(text), "--like", str(data_bin), "--teacher", str(teacher), "--cpu"]
    command += ["--nbest", "3", "--max-len-b", "20", "--out", str(tmp_path / "out")]
    assert main([*command, "--select", "mbr", "--max-length-deviation", "50", "--max-same-target", "1"]) == 0
    assert "is complete" in capsys.readouterr().out
    assert all(value != "" for group in groups(tmp_path / "out") for _, _, value, _ in group)
    assert main([*command, "--select", "closest"]) == 2
    assert "--select closest compares with gold targets" in capsys.readouterr().err
