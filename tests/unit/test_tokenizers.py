"""The scorer knows the target language: what a sentence without spaces scores, and refused inputs.

Expected scores come from sacreBLEU's own classes, called here by hand.
"""

import json
import shutil

import pytest
from result_helpers import write_result
from sacrebleu.metrics import BLEU, TER
from unspaced_helpers import sentences, write_checkpoint, write_corpus

from fairseq_kd.cli.main import main
from fairseq_kd.core.errors import KDError

ENGLISH, CHINESE = sentences()
# the verb is another one in each, which is one to three of about ten characters
WRONG = [line.replace("看见", "听").replace("喜欢", "看见") for line in CHINESE]
ASIAN_TER = {"normalized": True, "asian_support": True}


@pytest.fixture(scope="module")
def chinese(tmp_path_factory):
    """(data-bin en-zh, checkpoint)."""
    folder = tmp_path_factory.mktemp("chinese")
    write_corpus(folder)
    words = ["prepare", "text", "--raw", folder, "-s", "en", "-t", "zh", "--vocab-size", 110, "--out", folder / "data"]
    assert main([str(word) for word in words]) == 0
    write_checkpoint(folder / "data", folder / "model.pt")
    return folder / "data", folder / "model.pt"


@pytest.fixture
def evaluate(chinese, monkeypatch, tmp_path):
    """evaluate(options...): exit status; the model is made to say WRONG, and what it found is result()."""
    from fairseq_kd.corpus.subword import load_subword_models
    from fairseq_kd.evaluation.system import System

    data_bin, checkpoint = chinese
    segmented = list(map(load_subword_models(data_bin, "en", "zh")["zh"].encode, WRONG[3::6]))
    monkeypatch.setattr(System, "translate", lambda *arguments: segmented)

    def evaluate(*words, data_bin=data_bin):
        words = ["evaluate", data_bin, "--checkpoint", checkpoint, "--cpu", "--confidence-n", 0, *words]
        return main([*map(str, words), "--out", str(tmp_path / "result.json")])

    evaluate.result = lambda: json.loads((tmp_path / "result.json").read_text())
    return evaluate


def expected(metric, hypotheses, references) -> tuple[float, str]:
    found = metric.corpus_score(hypotheses, [references])
    return found.score, f"{found.name}|{metric.get_signature()}"


def test_chinese_is_scored_by_its_characters_in_bleu_and_in_ter(evaluate):
    assert evaluate() == 0
    result = evaluate.result()
    hypotheses, references = result["hypotheses"], result["references"]
    score, signature = expected(BLEU(tokenize="zh"), hypotheses, references)
    assert result["bleu"]["score"] == pytest.approx(score) and 40 < score < 95
    assert result["bleu"]["signature"] == signature and "|tok:zh|" in signature
    score, signature = expected(TER(**ASIAN_TER), hypotheses, references)
    assert result["ter"]["score"] == pytest.approx(score) and score < 40  # 100 where a sentence is a word
    assert result["ter"]["signature"] == signature and "|norm:yes|" in signature and "|asian:yes|" in signature
    assert result["tokenize"] == "zh"


def test_repetition_and_length_count_the_words_of_the_scorer(evaluate, monkeypatch, chinese):
    from fairseq_kd.corpus.subword import load_subword_models
    from fairseq_kd.evaluation.system import System

    encode = load_subword_models(chinese[0], "en", "zh")["zh"].encode
    monkeypatch.setattr(System, "translate", lambda *arguments: [encode("看见看见看见")] * 8)
    assert evaluate() == 0
    found = evaluate.result()["behaviour"]
    # six characters have three 4-grams, the third is the first again; no word is between spaces
    assert found["repetition"] == pytest.approx(1 / 3)
    assert found["length_ratio"] == pytest.approx(8 * 6 / sum(len(line) for line in evaluate.result()["references"]))


def test_13a_on_text_without_spaces_is_said_aloud_where_it_was_asked_for(evaluate, capsys):
    assert evaluate("--tokenize", "13a") == 0
    warning = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: "))
    assert "100% of the letters of the references belong to scripts without spaces" in warning
    assert evaluate.result()["bleu"]["score"] < 1 and "|tok:13a|" in evaluate.result()["bleu"]["signature"]
    assert evaluate("--tokenize", "zh") == 0 and "warning: " not in capsys.readouterr().err


def test_a_language_code_that_tells_nothing_is_refused_with_text_without_spaces(tmp_path, capsys):
    write_corpus(tmp_path, target="xx")
    words = ["prepare", "text", "--raw", tmp_path, "-s", "en", "-t", "xx", "--vocab-size", 110]
    assert main([*map(str, words), "--out", str(tmp_path / "data")]) == 0
    write_checkpoint(tmp_path / "data", tmp_path / "model.pt")
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "data"), "--checkpoint", str(tmp_path / "model.pt"), "--cpu"]) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fairseq_kd: error: ")]
    assert "the target language 'xx' does not say which tokeniser fits" in error and "--tokenize zh" in error


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("zh", "zh"), ("zh_CN", "zh"), ("zh-TW", "zh"), ("zh_Hans", "zh"), ("zho_Hant", "zh"), ("yue", "zh"),
        ("zh-Hant-HK", "zh"), ("ja", "ja-mecab"), ("ja_XX", "ja-mecab"), ("jpn_Jpan", "ja-mecab"),
        ("ko_KR", "ko-mecab"), ("kor_Hang", "ko-mecab"), ("th", "char"), ("tha_Thai", "char"), ("lo", "char"),
        ("km_KH", "char"),
        ("mya_Mymr", "char"), ("shn_Mymr", "char"), ("bod_Tibt", "char"),
        ("de", "13a"), ("pt-BR", "13a"), ("nan_Latn", "13a"), ("vi", "13a"), ("srp_Cyrl", "13a"), ("qab", "13a"),
    ],
)  # fmt: skip
def test_the_default_of_a_language_code(code, name):
    from fairseq_kd.scoring.tokenizers import default_tokenizer

    assert default_tokenizer(code) == name


@pytest.mark.parametrize(
    ("lines", "share"),
    [(CHINESE, 1.0), (ENGLISH, 0.0), (["สวัสดี"], 1.0), (["猫 cat"], 0.25), (["123 .", ""], 0.0), (["안녕하세요"], 0.0)],
)
def test_the_share_of_letters_that_are_of_a_script_without_spaces(lines, share):
    from fairseq_kd.scoring.tokenizers import unspaced_share

    assert unspaced_share(lines) == pytest.approx(share)


def test_every_tokeniser_scores_as_sacrebleu_does():
    from fairseq_kd.scoring.score import Scorer

    for name, ter in (("zh", TER(**ASIAN_TER)), ("13a", TER()), ("intl", TER()), ("none", TER())):
        found = Scorer(name).score(WRONG, CHINESE)
        for metric, theirs in (("bleu", BLEU(tokenize=name)), ("ter", ter)):
            score, signature = expected(theirs, WRONG, CHINESE)
            assert (found[metric]["score"], found[metric]["signature"]) == (pytest.approx(score), signature)


def test_ter_of_characters_is_that_of_text_with_a_space_after_each():
    from fairseq_kd.scoring.score import Scorer

    thai = ["แมวเห็นหนังสือสีแดง", "หมอชอบ BMW"], ["แมวชอบหนังสือสีแดง", "หมอชอบ bmw"]
    hypotheses, references = ([" ".join(line.replace(" ", "")) for line in lines] for lines in thai)
    found = Scorer("char").score(*thai)["ter"]
    assert found["score"] == pytest.approx(TER().corpus_score(hypotheses, [references]).score) and found["score"] < 50
    assert "|tok:char|" in found["signature"] and "|case:lc|" in found["signature"]


@pytest.mark.parametrize(("module", "name"), [("MeCab", "ja-mecab"), ("mecab_ko", "ko-mecab")])
def test_japanese_and_korean_are_scored_as_sacrebleu_does(module, name):
    pytest.importorskip(module)
    from fairseq_kd.scoring.score import Scorer

    hypotheses, references = ["これはペンです。", "나는 학생입니다."], ["これは赤いペンです。", "나는 선생님입니다."]
    found = Scorer(name).score(hypotheses, references)
    score, signature = expected(BLEU(tokenize=name), hypotheses, references)
    assert (found["bleu"]["score"], found["bleu"]["signature"]) == (pytest.approx(score), signature)
    assert f"|tok:{name}-" in signature
    if name == "ja-mecab":  # one word, 赤い, of six is missing
        assert Scorer(name).score(hypotheses[:1], references[:1])["ter"]["score"] == pytest.approx(100 / 6)


def test_results_of_different_tokenisers_are_not_compared(tmp_path, capsys):
    files = [write_result(tmp_path / f"{name}.json", WRONG, CHINESE, tokenize=name) for name in ("zh", "char")]
    assert main(["compare", *files]) == 2
    assert "was scored by the tokeniser char" in capsys.readouterr().err
    old = write_result(tmp_path / "old.json", WRONG, CHINESE)  # was written when 13a was the only one
    assert main(["compare", old, files[0]]) == 2
    assert f"{files[0]} was scored by the tokeniser zh, {old} by 13a" in capsys.readouterr().err
    assert main(["compare", old, files[0], "--metric", "chrf", "--paired-bs-n", "9"]) == 0  # chrF has no words


def test_compare_scores_by_the_tokeniser_of_the_files(tmp_path, capsys):
    better = WRONG[:10] + CHINESE[10:]
    files = [
        write_result(tmp_path / f"{name}.json", lines, CHINESE, tokenize="zh")
        for name, lines in (("a", WRONG), ("b", better))
    ]
    for name, metric in (("bleu", BLEU(tokenize="zh")), ("ter", TER(**ASIAN_TER))):
        out = tmp_path / f"{name}.out"
        words = ["--metric", name, "--paired-bs-n", 100, "--paired-ar-n", 100, "--out", out]
        assert main(["compare", *files, *map(str, words)]) == 0
        found = json.loads(out.read_text())
        scores = [system["scores"][0] for system in found["systems"]]
        assert scores == pytest.approx([expected(metric, lines, CHINESE)[0] for lines in (WRONG, better)])
        signatures = [line for of_test in found["signatures"].values() for line in of_test]
        assert signatures and all("tok:zh" in line or "asian:yes" in line for line in signatures)


def test_a_tokeniser_that_is_not_installed_is_an_error_with_the_line_that_installs_it(monkeypatch):
    import sacrebleu.tokenizers.tokenizer_ja_mecab as japanese

    from fairseq_kd.scoring import tokenizers

    tokenizers.load_tokenizer.cache_clear()
    monkeypatch.setattr(japanese, "MeCab", None)
    with pytest.raises(KDError, match=r"default for the target language ja, .*pip install 'sacrebleu\[ja\]', or give"):
        tokenizers.choose_tokenizer("ja", None)
    with pytest.raises(KDError, match="tokeniser ja-mecab, cannot be used .*--tokenize char"):
        tokenizers.choose_tokenizer("de", "ja-mecab")
    assert tokenizers.choose_tokenizer("ja", "char") == "char"


def test_closest_compares_by_the_tokeniser_of_the_language(chinese, tmp_path, monkeypatch):
    """Of two hypotheses without a word of 13a in common with the gold, the one that shares characters is chosen."""
    from fairseq_kd.corpus.subword import load_subword_models
    from fairseq_kd.inference.opening import open_data
    from fairseq_kd.sequence import decode as decode_module
    from fairseq_kd.sequence.decode_options import DecodeOptions, Hypothesis

    data_bin, checkpoint = chinese
    dictionary = open_data(data_bin, ("en", "zh"), "test").target_dictionary
    encode = load_subword_models(data_bin, "en", "zh")["zh"].encode
    far, near = (
        [dictionary.encode_line(encode(line), add_if_not_exist=False, append_eos=False).numpy() for line in lines]
        for lines in (["花花花花花花花"] * 8, WRONG[3::6])
    )

    class Two:
        name, max_tokens = "two", 1

        def translate(self, sentences, advance):
            return {int(n): [Hypothesis(far[n], -0.5), Hypothesis(near[n], -1.0)] for n in sentences}

    monkeypatch.setattr(decode_module, "choose_backend", lambda *arguments: Two())
    options = DecodeOptions(cpu=True, subset="test", nbest=2, select="closest")
    manifest = decode_module.decode(data_bin, str(checkpoint), tmp_path / "out", options)
    chosen = [row[:-1].tolist() for row in open_data(tmp_path / "out", ("en", "zh"), "test").dataset("test").tgt]
    assert chosen == [row.tolist() for row in near]
    assert manifest["closest"] == {"metric": "bleu", "post_process": "sentencepiece", "tokenize": "zh"}
    other = DecodeOptions(cpu=True, subset="test", nbest=2, select="closest", tokenize="13a")
    with pytest.raises(KDError, match=r"made with closest\.tokenize zh, this command has nothing"):
        decode_module.decode(data_bin, str(checkpoint), tmp_path / "out", other)


def test_select_teacher_scores_by_the_tokeniser_of_the_language(chinese, tmp_path, capsys):
    (tmp_path / "training").mkdir()
    shutil.copy(chinese[1], tmp_path / "training" / "checkpoint1.pt")
    words = ["select-teacher", chinese[0], "--checkpoints", tmp_path / "training", "--by", "low-loss"]
    words += ["--beam", 1, "--max-len-b", 10, "--cpu"]
    for option, name in (((), "zh"), (("--tokenize", "char"), "char")):  # the first is not taken for the second
        assert main([*map(str, words), *option]) == 0
        found = json.loads((tmp_path / "training" / "selection" / "selection.json").read_text())
        assert f"|tok:{name}|" in found["checkpoints"][0]["signature"]


def test_options_without_effect_and_unknown_tokenisers(capsys):
    from fairseq_kd.scoring.tokenizers import choose_tokenizer
    from fairseq_kd.sequence.decode_options import DecodeOptions

    with pytest.raises(KDError, match="--tokenize zh has no effect without --select closest and --metric bleu"):
        DecodeOptions(tokenize="zh")
    with pytest.raises(KDError, match="--tokenize zh has no effect"):
        DecodeOptions(tokenize="zh", select="closest", nbest=2, metric="chrf")
    with pytest.raises(KDError, match="--tokenize moses: must be one of 13a, zh,"):
        choose_tokenizer("de", "moses")


def test_all_stages_of_a_study_score_by_one_tokeniser(tmp_path):
    from study_helpers import write_spec

    from fairseq_kd.study.check import open_plan

    write_corpus(tmp_path)
    data = {"name": "text", "source-lang": "en", "target-lang": "zh", "raw": str(tmp_path)}
    teacher = {"save-interval-updates": 2, "keep-interval-updates": 2}
    decode = {"select": "closest", "nbest": 2}
    changes = {"data": data, "decode": decode, "claims": None}
    changes["factors"] = {"method": ["ce", "seq"], "teacher-choice": ["high-score"]}

    def plan(**more):
        given = changes | {"teacher": teacher} | more
        return open_plan(write_spec(tmp_path, **given), tmp_path / "work").stages.values()

    for stages, name in ((plan(), "zh"), (plan(evaluate={"tokenize": "char"}), "char")):
        scored = [stage.command for stage in stages if stage.kind in ("select", "decode", "evaluate")]
        assert {command[1] for command in scored} == {"select-teacher", "decode", "evaluate"}
        assert all(command[command.index("--tokenize") + 1] == name for command in scored)
    with pytest.raises(KDError, match="tokenize in decode is set by the study; give it in evaluate"):
        plan(decode=decode | {"tokenize": "zh"})
    with pytest.raises(KDError, match="evaluate: --tokenize moses: must be one of"):
        plan(evaluate={"tokenize": "moses"})
    with pytest.raises(KDError, match="tokenize in evaluate is the same for all cells"):
        plan(factors=changes["factors"] | {"evaluate.tokenize": ["zh", "char"]})


def test_a_recipe_of_the_quickstart_says_how_its_text_is_scored(chinese, tmp_path):
    from fairseq_kd.quickstart.recipe import Recipe
    from fairseq_kd.quickstart.run import _score

    data_bin, checkpoint = chinese
    for decoding, name in (
        ({}, "zh"),
        ({"tokenize": "char"}, "char"),
    ):  # the kept result of zh is not the result of char
        recipe = Recipe("mine.yaml", {"target-lang": "zh"}, {}, {}, {}, {}, {"beam": 1, **decoding})
        result = _score(tmp_path / "result.json", data_bin, checkpoint, recipe, True)
        assert f"|tok:{name}|" in result["bleu"]["signature"]
