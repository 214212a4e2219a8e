"""Checkpoints of fairseq's mBART and multilingual tasks, as teachers and as evaluated systems."""

import itertools
import json
import math
import shlex
import subprocess
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from docs_helpers import blocks_run_by, with_user_dir
from helpers import batch, build
from multilingual_helpers import ARCHITECTURES, BART, PAIR, TASKS, stock_criterion, stock_hypotheses, write_random
from process_helpers import run_python

from fairseq_kd.cli.main import main
from fairseq_kd.core.errors import KDError
from fairseq_kd.inference.frozen import load_frozen
from fairseq_kd.inference.language_tokens import language_ids
from fairseq_kd.inference.loading import load_pair
from fairseq_kd.inference.opening import open_data
from fairseq_kd.inference.without_tokens import WithoutTokens
from fairseq_kd.sequence.decode import choose_backend
from fairseq_kd.sequence.decode_options import DecodeOptions
from fairseq_kd.sequence.second_model import SecondModel
from fairseq_kd.sequence.strategies import STRATEGIES
from fairseq_kd.teacher.ensemble import open_teachers

SEARCH = ("--beam", "3", "--max-len-b", "9", "--cpu")
SMOOTHED = ("--label-smoothing", "0.1", "--kd-weight", "0")
FAST = ("--confidence-n", "0")
TWO_UPDATES = ("--max-update", "2", "--disable-validation", "--num-workers", "0", "--cpu")


@pytest.fixture(scope="module")
def models(data_bin, tmp_path_factory):
    """Name of a task -> a random checkpoint of it."""
    folder = tmp_path_factory.mktemp("multilingual")
    found = {name: folder / f"{name.replace(' ', '-')}.pt" for name in TASKS}
    for name, path in found.items():
        write_random(path, data_bin, *TASKS[name], *ARCHITECTURES.get(name, ()))
    return found


@pytest.fixture(scope="module")
def caches(data_bin, models, tmp_path_factory):
    """(name of a task, task of the student or None) -> a cache of the whole vocabulary in float32, made once."""
    folder, made = tmp_path_factory.mktemp("caches"), {}

    def make(name, student_task=None) -> Path:
        if (name, student_task) not in made:
            words = ["cache", str(data_bin), "--teacher", str(models[name]), "--subset", "valid", "--cpu"]
            types = len(load_pair(data_bin, models[name], "valid", student_task=student_task)[1].target_dictionary)
            words += ["--out", str(folder / f"{len(made)}"), "--top-k", str(types), "--store", "float32"]
            words += [] if student_task is None else ["--student-task", student_task]
            assert main(words) == 0
            made[name, student_task] = folder / f"{len(made)}"
        return made[name, student_task]

    return make


@pytest.mark.parametrize("name", TASKS)
def test_evaluate_gives_the_hypotheses_of_fairseq_generate(name, data_bin, models, tmp_path):
    from fairseq_kd.corpus.subword import subword_decoder

    out = tmp_path / "result.json"
    assert main(["evaluate", str(data_bin), "--checkpoint", str(models[name]), *SEARCH, *FAST, "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    expected = stock_hypotheses(data_bin, models[name], *SEARCH, *TASKS[name])
    _, decode = subword_decoder(data_bin, "qab", None)
    assert result["hypotheses"] == [decode(line) for line in expected]
    assert len(set(result["hypotheses"])) > 1  # the models differ between sources
    assert result["lang_pair"] == "qaa-qab"
    assert "language tokens" in result["language_tokens"]


@pytest.mark.parametrize("name", TASKS)
def test_the_cross_entropy_is_that_of_stock_fairseq(name, data_bin):
    """Loss, nll, tokens and sample size of a batch; language tokens count as fairseq counts them."""
    task, stock = stock_criterion(data_bin, *TASKS[name])
    _, own, model, ours = build(data_bin, *TASKS[name], "--criterion", "kd_word", *SMOOTHED)
    model.eval()
    with torch.no_grad():
        loss, size, logged = ours(model, batch(own, range(5), "valid"))
        expected, expected_size, expected_log = stock(model, batch(task, range(5), "valid"))
    assert math.isclose(loss, expected, rel_tol=1e-5)
    assert size == expected_size
    assert logged["ntokens"] == expected_log["ntokens"]
    assert math.isclose(logged["nll_loss"], expected_log["nll_loss"], rel_tol=1e-5)


@pytest.mark.parametrize(("name", "student"), [("bart", "same task"), ("multi", "same task"), ("bart", "translation")])
def test_a_cache_gives_the_loss_of_the_teacher_that_runs(name, student, data_bin, models, caches):
    same = student == "same task"
    task = TASKS[name] if same else ("--task", "translation", *PAIR)
    valid = ("--criterion", "kd_word", "--train-subset", "valid")
    folder = caches(name, None if same else "translation")
    found = []
    for source in (("--teacher", models[name]), ("--teacher-cache", folder)):
        _, own, model, criterion = build(data_bin, *task, *valid, *source)
        sample = batch(own, range(6), "valid")
        found.append(criterion(model, sample)[2])
    for key in ("loss", "kd_loss", "n_agreed"):
        assert math.isclose(float(found[0][key]), float(found[1][key]), rel_tol=1e-4), key
    assert main(["verify-cache", str(folder), "--cpu", "--sample", "9"]) == 0


@pytest.mark.parametrize("name", TASKS)
def test_a_student_without_tokens_learns_the_renormalised_rows_of_the_teachers_own_batch(name, data_bin, models):
    """The reference runs the model on the batch of its own task and takes the rows whose gold token is no token of a
    language (nor <s>), over the entries of the data's dictionary."""
    model, own_task = load_pair(data_bin, models[name], "valid")
    _, plain = load_pair(data_bin, models[name], "valid", student_task="translation")
    view = WithoutTokens(model, plain.source_dictionary, plain.target_dictionary)
    types, pad = len(plain.target_dictionary), plain.target_dictionary.pad()
    numbers = [3, 8, 0, 5]
    ours, theirs = batch(plain, numbers, "valid"), batch(own_task, numbers, "valid")
    answer = view.signal(ours, ours["target"].ne(pad))
    extra = torch.tensor([*language_ids(own_task), pad])
    keep = ~torch.isin(theirs["target"], extra)
    with torch.no_grad():
        logits = model.model(**theirs["net_input"])[0][keep]
    expected = torch.log_softmax(logits[:, :types], dim=-1)
    assert ours["id"].tolist() == theirs["id"].tolist()
    assert answer.vocabulary == types < logits.size(1)
    assert torch.allclose(answer.rows(), expected, atol=1e-5)
    assert torch.equal(theirs["target"][keep], ours["target"][ours["target"].ne(pad)])


@pytest.mark.parametrize("name", ["bart with bos", "multi", "multi replacing"])
def test_the_side_of_the_padding_makes_no_difference_to_the_view(name, data_bin, models):
    _, plain = load_pair(data_bin, models[name], "valid", student_task="translation")
    view = WithoutTokens(load_frozen(models[name]), plain.source_dictionary, plain.target_dictionary)
    sample, dataset = batch(plain, [1, 4, 9], "valid"), plain.dataset("valid")
    dataset.left_pad_source, dataset.left_pad_target = False, True
    other = dataset.collater([dataset[i] for i in (1, 4, 9)])
    dataset.left_pad_source, dataset.left_pad_target = True, False
    pad = plain.target_dictionary.pad()
    assert not torch.equal(sample["net_input"]["src_tokens"], other["net_input"]["src_tokens"])
    rows = [view.signal(one, one["target"].ne(pad)).rows() for one in (sample, other)]
    assert torch.allclose(*rows, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "strategy"),
    [*itertools.product(("bart", "multi"), ("beam", "sample")), *((name, "teacher-forcing") for name in TASKS)],
)
def test_decoded_data_hold_no_language_tokens(name, strategy, data_bin, models, tmp_path):
    more = {"beam": ("--max-len-b", "9"), "sample": ("--max-len-b", "9", "--seed", "3"), "teacher-forcing": ()}
    out, words = tmp_path / "out", ["decode", str(data_bin), "--teacher", str(models[name]), "--subset", "valid"]
    assert main([*words, "--out", str(out), "--strategy", strategy, *more[strategy], "--cpu"]) == 0
    decoded, gold = (open_data(folder, ("qaa", "qab"), "valid").dataset("valid") for folder in (out, data_bin))
    dictionary = decoded.tgt_dict
    for number in range(len(gold)):
        assert torch.equal(decoded.src[number], gold.src[number])
        tokens = decoded.tgt[number].tolist()
        assert max(tokens) < len(dictionary)
        assert tokens.index(dictionary.eos()) == len(tokens) - 1  # the end, once
        if strategy == "teacher-forcing":
            assert len(tokens) == len(gold.tgt[number])


def test_samples_of_an_mbart_model_depend_on_the_seed(data_bin, models, tmp_path):
    """fairseq's own generator of this task ignores the options of sampling."""
    texts = []
    for seed in ("1", "1", "2"):
        out = tmp_path / str(len(texts))
        words = ["decode", str(data_bin), "--teacher", str(models["bart"]), "--subset", "valid", "--cpu"]
        assert main([*words, "--out", str(out), "--strategy", "sample", "--max-len-b", "6", "--seed", seed]) == 0
        texts.append((out / "valid.hypotheses.qab.tsv").read_text())
    assert texts[0] == texts[1] != texts[2]


def test_checkpoints_are_selected(data_bin, models, tmp_path, capsys):
    words = [
        "select-teacher",
        str(data_bin),
        "--checkpoints",
        f"{models['bart']}:{models['multi']}",
        "--by",
        "low-loss",
    ]
    assert main([*words, "--out", str(tmp_path), "--cpu", "--beam", "1", "--max-len-b", "2"]) == 0
    rows = json.loads((tmp_path / "selection.json").read_text())["checkpoints"]
    for name in ("bart", "multi"):
        task, stock = stock_criterion(data_bin, *TASKS[name])
        model = load_frozen(models[name]).model
        if "valid" not in task.datasets:
            task.load_dataset("valid")
        with torch.no_grad():
            logged = stock(model, batch(task, range(30), "valid"))[2]
        expected = logged["nll_loss"] / logged["ntokens"] / math.log(2)
        row = next(row for row in rows if row["checkpoint"] == str(models[name]))
        assert math.isclose(row["nll"], expected, rel_tol=1e-4)


def test_several_pairs_are_refused_with_a_cache_and_not_with_a_teacher_that_runs(
    data_bin, models, caches, tmp_path, capsys
):
    task = [word if word != "qaa-qab" else "qaa-qab,qab-qaa" for word in TASKS["multi"]]
    words = (*task, "--criterion", "kd_word", "--train-subset", "valid")
    _, own, model, criterion = build(data_bin, *words, "--teacher", models["multi"])
    own.load_dataset("valid")
    dataset = own.dataset("valid")
    sample = dataset.collater([dataset[0], dataset[30]])  # the first sentence of each pair
    assert len(dataset) == 60
    assert sample["id"].tolist() == [0, 0]  # fairseq numbers each pair from 0
    assert criterion(model, sample)[2]["kd_loss"] > 0
    _, own, _, _ = build(data_bin, *words, "--teacher-cache", caches("multi"))
    with pytest.raises(SystemExit) as ended:
        own.load_dataset("valid")
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "--teacher-cache with the language pairs qaa-qab,qab-qaa: a cache holds one pair" in error


WRONG = {
    "a teacher of the other task": (TASKS["multi replacing"], "--teacher", "bart", "the same batch would mean other"),
    "a teacher with other tokens": (TASKS["bart with bos"], "--teacher", "bart", "with <s>"),
    "a cache for another layout": (TASKS["multi replacing"], "--teacher-cache", "bart", "rows are of other positions"),
    "a cache with tokens": (("--task", "translation"), "--teacher-cache", "bart", "cache --student-task translation"),
    "other languages": (
        (*BART[:-1], "qaa,qac,qab", *PAIR),
        *("--teacher", "bart", "the first difference is at index 121: teacher '[qab]', student '[qac]'"),
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_teacher_that_does_not_fit_the_student_is_refused(case, data_bin, models, caches, capsys):
    task, option, name, said = WRONG[case]
    teacher = models[name] if option == "--teacher" else caches(name)
    with pytest.raises(SystemExit) as ended:
        _, own, model, criterion = build(
            data_bin, *task, "--criterion", "kd_word", "--train-subset", "valid", option, teacher
        )
        criterion(model, batch(own, range(3), "valid"))
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_samples_of_the_student_are_refused(data_bin, models, capsys):
    with pytest.raises(SystemExit):
        build(
            data_bin, *TASKS["multi"], "--criterion", "kd_word", "--teacher", models["multi"], "--on-policy-rate", "1"
        )
    assert "--on-policy-rate cannot go with a task that has language tokens" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("encoder_langtok", "other", "'other' in the option --encoder-langtok"),
        ("langtoks", {"main": ["src", 3]}, "in the option --langtoks"),
        ("langs", ["qaa", "q b"], "in the option --langs"),
        ("langs", ["qaa", "qab/../../x"], "in the option --langs"),
        ("lang_pairs", 5, None),
        ("langs", None, "pruned"),
        ("lang_dict", "/nowhere/langs.txt", None),
    ],
)
def test_options_that_fairseq_does_not_write_are_refused(option, value, said, data_bin, models, tmp_path):
    state = torch.load(models["multi"])
    vars(state["cfg"]["task"])[option] = value
    torch.save(state, tmp_path / "changed.pt")
    if said is None:  # not read: --langs says all, and the data-bin shows its pair
        assert load_frozen(tmp_path / "changed.pt", languages=("qaa", "qab")).languages == ("qaa", "qab")
        return
    said = "cannot be built" if said == "pruned" else said  # without --langs, fewer languages: other embeddings
    with pytest.raises(KDError, match=said):
        load_frozen(tmp_path / "changed.pt", languages=("qaa", "qab"))


def test_the_list_of_languages_may_be_a_file_beside_the_data(data_bin, models, tmp_path):
    state = torch.load(models["multi"])
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "langs.txt").write_text("qaa\nqab\nqac\n")  # not opened: the checkpoint names it
    vars(state["cfg"]["task"]).update(langs=None, lang_dict=str(tmp_path / "elsewhere" / "langs.txt"))
    torch.save(state, tmp_path / "listed.pt")
    for lang in ("qaa", "qab"):
        (tmp_path / f"dict.{lang}.txt").write_bytes((data_bin / f"dict.{lang}.txt").read_bytes())
    with pytest.raises(KDError, match=f"put a copy of that file at {tmp_path}/langs.txt"):
        load_frozen(tmp_path / "listed.pt", data=tmp_path, languages=("qaa", "qab"))
    (tmp_path / "langs.txt").write_text("qaa\nqab\n\nqac\n")
    assert load_frozen(tmp_path / "listed.pt", data=tmp_path, languages=("qaa", "qab")).language_tokens == (121, 121)


def test_the_pair_can_be_chosen(data_bin, models, tmp_path, capsys):
    """The reverse direction of the same files; the first model translates one pair only."""
    words = [
        "--subset",
        "valid",
        "--post-process",
        "none",
        "--reference",
        str(data_bin / "raw" / "valid.qaa"),
        *SEARCH,
        *FAST,
    ]
    both = tmp_path / "both"
    both.mkdir()
    for path in data_bin.glob("*.*"):
        if path.suffix in (".bin", ".idx", ".txt"):
            (both / path.name).write_bytes(path.read_bytes())
            (both / path.name.replace("qaa-qab", "qab-qaa")).write_bytes(path.read_bytes())
    evaluate = ["evaluate", str(both), "--checkpoint", str(models["multi"]), *words, "--out", str(tmp_path / "a.json")]
    state = torch.load(models["multi"])
    vars(state["cfg"]["task"])["lang_pairs"] = ["qaa-qab", "qab-qaa"]
    torch.save(state, tmp_path / "many.pt")
    evaluate[3] = str(tmp_path / "many.pt")
    assert main(evaluate) == 2
    assert "give the pair with --lang-pair SOURCE-TARGET" in capsys.readouterr().err
    assert main([*evaluate, "--lang-pair", "qab-qaa"]) == 0
    assert json.loads((tmp_path / "a.json").read_text())["lang_pair"] == "qab-qaa"
    for pair, said in (("qab", "give SOURCE-TARGET"), ("qaa-qad", "qad is not one of them")):
        assert main([*evaluate, "--lang-pair", pair]) == 2
        assert said in capsys.readouterr().err
    evaluate[3] = str(models["bart"])
    assert main([*evaluate, "--lang-pair", "qab-qaa"]) == 2
    assert "translates qaa-qab, and nothing else" in capsys.readouterr().err


@pytest.mark.parametrize("name", TASKS)
def test_a_second_model_reads_language_tokens(name, data_bin, teacher, models, monkeypatch):
    """Scores are those of the model's own batches without the language tokens; translations are those of its search."""
    first = open_teachers(data_bin, str(teacher), "valid")
    second = SecondModel.open("--select-model", str(models[name]), data_bin, first, torch.device("cpu"))
    sources, targets = ([row.numpy()[:-1] for row in side] for side in (first.dataset.src, first.dataset.tgt))
    model, task = load_pair(data_bin, models[name], "valid")
    dataset = task.dataset("valid")
    sample = dataset.collater([dataset[number] for number in range(len(dataset))])
    keep = sample["target"].ne(task.target_dictionary.pad())
    for token in language_ids(task):
        keep &= sample["target"].ne(token)
    picked = model.signal(sample, keep).rows(0, int(keep.sum())).gather(1, sample["target"][keep][:, None]).squeeze(1)
    expected = [part.mean().item() for part in picked.split(keep.sum(dim=1).tolist())]
    found = second.lprobs(sources, targets)
    assert [found[number] for number in sample["id"].tolist()] == pytest.approx(expected, rel=1e-4)

    options = STRATEGIES["greedy"].options
    monkeypatch.setitem(options, "max_len_b", replace(options["max_len_b"], default=9))
    greedy = ("--beam", "1", "--max-len-b", "9", "--gen-subset", "valid", "--cpu")
    symbols = task.target_dictionary.symbols
    never = {symbols[token] for token in language_ids(task)}  # also where a random model gives those of other languages
    lines = [line.split() for line in stock_hypotheses(data_bin, models[name], *greedy, *TASKS[name])]
    found = [[symbols[token] for token in hypothesis.tokens] for hypothesis in second.translate(sources)]
    assert found == [[word for word in line if word not in never] for line in lines]
    assert len(set(map(tuple, found))) > 1


@pytest.mark.parametrize("name", ["bart", "multi", "multi replacing"])
def test_scores_are_about_all_tokens_of_the_search(name, data_bin, models):
    """Without length penalty the score is the log-probability, else this divided by the number to its power."""
    teachers, found = open_teachers(data_bin, str(models[name]), "valid"), {}
    for penalty in (0.0, 1.0, 2.0):
        how = DecodeOptions(strategy="beam", beam=1, lenpen=penalty, max_len_b=9, subset="valid", cpu=True)
        numbers = np.arange(len(teachers.dataset))
        hypotheses = choose_backend(teachers, how, say=str).translate(numbers, lambda count: None)
        found[penalty] = [hypotheses[number][0] for number in numbers.tolist()]
    for whole, *divided in zip(*found.values(), strict=True):
        for penalty, other in zip((1.0, 2.0), divided, strict=True):
            assert other.score * other.scored_tokens**penalty == pytest.approx(whole.score, rel=1e-4)
    assert any(hypothesis.scored_tokens > len(hypothesis.tokens) + 1 for hypothesis in found[0.0])
    assert all(hypothesis.at_limit == (hypothesis.scored_tokens == 10) for hypothesis in found[0.0])


def test_a_model_of_both_directions_translates_back(data_bin, teacher, models):
    first = open_teachers(data_bin, str(teacher), "valid")
    how = ("--round-trip", str(models["multi"]), data_bin, first, torch.device("cpu"))
    assert SecondModel.open(*how, back=True).reverse
    assert not SecondModel.open(*how).reverse


@pytest.mark.parametrize("name", ["bart", "multi"])
def test_a_checkpoint_of_an_earlier_fairseq_is_read(name, data_bin, models, tmp_path):
    """Before 0.11 a checkpoint had its options in one namespace, with the tokens of each kind of data in a dict."""
    state = torch.load(models[name])
    options = vars(state["cfg"]["model"]) | vars(state["cfg"]["task"])
    assert name == "bart" or options["langtoks"] == {"main": ("tgt", "tgt")}
    torch.save(state | {"args": Namespace(**options), "cfg": None}, tmp_path / "old.pt")
    old, new = (load_pair(data_bin, path, "valid", data=data_bin) for path in (tmp_path / "old.pt", models[name]))
    sample = batch(new[1], range(3), "valid")
    keep = sample["target"].ne(new[1].target_dictionary.pad())
    assert torch.equal(old[0].signal(sample, keep).rows(), new[0].signal(sample, keep).rows())


def test_a_student_task_without_effect_is_refused(data_bin, teacher, tmp_path, capsys):
    words = ["cache", str(data_bin), "--teacher", str(teacher), "--out", str(tmp_path / "c"), "--top-k", "4"]
    assert main([*words, "--student-task", "translation", "--cpu"]) == 2
    assert "--student-task has no effect" in capsys.readouterr().err
    assert np.array_equal(sorted(tmp_path.iterdir()), [])


def test_the_task_of_mbart_keeps_options_that_it_sets_itself():
    """Later versions of fairseq set `self.args`."""
    from fairseq.tasks.translation_from_pretrained_bart import TranslationFromPretrainedBARTTask as Task

    task = Task.__new__(Task)
    task.cfg = "options"
    assert task.args == "options"
    task.args = "its own"
    assert task.args == "its own"


def test_the_commands_of_the_page_on_dictionaries(data_bin, tmp_path, monkeypatch):
    """The dictionary has entries behind those of the data-bin, as the one of M2M-100 has."""
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data"
    data.mkdir()
    longer = (data_bin / "dict.qaa.txt").read_text() + "__qab__ 1\nmadeupword0000 1\n"
    for name in ("model_dict.128k.txt", "data/dict.qaa.txt", "data/dict.qab.txt"):
        Path(name).write_text(longer)
    write_random("m2m.pt", data, *TASKS["multi"])
    (tmp_path / "data-bin").symlink_to(data_bin)
    (block,) = blocks_run_by("test_the_commands_of_the_page_on_dictionaries")
    for command in block.commands():
        program, *words = command.split()
        if program == "fairseq-kd":
            assert main([*words, *(["--cpu"] if words[0] == "cache" else [])]) == 0
        else:
            subprocess.run([program, *words], check=True)
    assert load_frozen("small/m2m.pt").target_dictionary.symbols[-3:] == ["__qab__", "__qaa__", "__qac__"]


def test_the_commands_of_the_multilingual_page(data_bin, models, tmp_path, monkeypatch):
    """With two updates per training and short translations: a cached teacher for a student of --task translation, and
    the same task."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data-bin").symlink_to(data_bin)
    (tmp_path / "mbart.pt").symlink_to(models["bart"])
    commands = [
        c
        for block in blocks_run_by("test_the_commands_of_the_multilingual_page")
        for c in with_user_dir(block.commands())
    ]
    assert [command.split()[0] for command in commands] == [*["fairseq-kd"] * 3, *["fairseq-train"] * 2]
    for command in commands:
        program, *words = shlex.split(command)
        if program == "fairseq-kd":
            short = () if words[0] == "cache" else ("--max-len-a", "0", "--max-len-b", "2")
            assert main([*words, *short, "--cpu"]) == 0
        else:
            result = run_python("-m", "fairseq_cli.train", *words, *TWO_UPDATES, cwd=tmp_path)
            assert result.returncode == 0, result.stderr[-3000:]
    assert torch.load("same/checkpoint_last.pt")["optimizer_history"][-1]["num_updates"] == 2
    assert len(torch.load("student/checkpoint_last.pt")["model"]["decoder.embed_tokens.weight"]) == 120
