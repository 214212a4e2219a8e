"""fairseq-kd prune-vocabulary: probabilities, order of entries, data-bins, what reads the results, refused inputs."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from docs_helpers import blocks_run_by
from fairseq.data import Dictionary
from helpers import batch, losses_of_training
from multilingual_helpers import ARCHITECTURES, TASKS, stock_hypotheses, write_random
from student_helpers import write_model

from fairseq_kd.artifacts.derived import SideWriter
from fairseq_kd.artifacts.manifest import check_files, read_prepared
from fairseq_kd.cli.main import main
from fairseq_kd.corpus.reserved import reserve, reserved_names
from fairseq_kd.inference.checkpoint import read_checkpoint
from fairseq_kd.inference.frozen import build_model, configure_own_task
from fairseq_kd.inference.opening import open_data

PAIR = ("qaa", "qab")
SMALL = [
    *("--encoder-embed-dim", "16", "--decoder-embed-dim", "16", "--encoder-layers", "1", "--decoder-layers", "1"),
    *("--encoder-ffn-embed-dim", "24", "--encoder-attention-heads", "2", "--decoder-attention-heads", "2"),
]


def write_dictionary(path, symbols) -> None:
    path.write_text("".join(f"{symbol} {100 - number}\n" for number, symbol in enumerate(symbols)))


def write_data_bin(folder, symbols, rows=None):
    """A data-bin with the dictionaries `symbols` (source, target); sentences use every third entry."""
    folder.mkdir()
    drawn = np.random.default_rng(1)
    for side, (lang, listed) in enumerate(zip(PAIR, symbols, strict=True)):
        write_dictionary(folder / f"dict.{lang}.txt", listed)
        dictionary = Dictionary.load(str(folder / f"dict.{lang}.txt"))
        for subset in ("train", "valid"):
            used = np.arange(4 + side, len(dictionary), 3 if subset == "train" else 6)
            with SideWriter(folder, f"{subset}.qaa-qab.{lang}", dictionary) as writer:
                for length in (5, 7, 3, 30):
                    writer.add(np.append(drawn.choice(used, length) if length < 30 else used, dictionary.eos()))
                writer.close()
    return folder


WORDS = [f"w{number}" for number in range(30)]


@pytest.fixture(scope="module")
def joined(tmp_path_factory):
    return write_data_bin(tmp_path_factory.mktemp("joined") / "data", (WORDS, WORDS))


@pytest.fixture(scope="module")
def separate(tmp_path_factory):
    return write_data_bin(tmp_path_factory.mktemp("separate") / "data", (WORDS, [f"t{n}" for n in range(37)]))


def prune(checkpoint, data, out, *more) -> None:
    words = ["prune-vocabulary", str(checkpoint), "--data", str(data), "--out", str(out / "small.pt")]
    assert main([*words, *map(str, more)]) == 0


def opened(path):
    """(model in eval mode, task) of a checkpoint, from the files that it records."""
    state = read_checkpoint(path)
    configure_own_task(path, state, None, PAIR, language_tokens=True)
    model, task = build_model(path, state)
    return model.eval(), task


def lprobs(model, net_input):
    with torch.no_grad():
        return model.get_normalized_probs(model(**net_input), log_probs=True)


def assert_renormalised(original, pruned, inputs) -> None:
    """q(k) = p(k) / Σ p(j) over the kept tokens, computed from the probabilities."""
    (model, task), (small, its_task) = original, pruned
    symbols = task.target_dictionary.symbols
    kept = [symbols.index(symbol) for symbol in its_task.target_dictionary.symbols]
    assert kept == sorted(kept) and 4 < len(kept) < len(symbols)
    full = lprobs(model, inputs[0]).double().exp()[..., kept]
    expected = (full / full.sum(dim=-1, keepdim=True)).log().float()
    torch.testing.assert_close(lprobs(small, inputs[1]), expected, rtol=0, atol=1e-5)


SEPARATE = ["--arch", "transformer", *SMALL]
KINDS = {
    "joined and shared": ("joined", ["--arch", "transformer", "--share-all-embeddings", *SMALL]),
    "separate": ("separate", SEPARATE),
    "separate, input is output": ("separate", [*SEPARATE, "--share-decoder-input-output-embed"]),
    "kd_student, separate": ("separate", ["--arch", "kd_student", "--separate-embeddings", *SMALL]),
    "kd_adaptive": ("joined", ["--arch", "kd_adaptive", *SMALL, "--capacity-target", "0.7"]),
    "lstm": ("separate", ["--arch", "lstm", "--encoder-embed-dim", "8", "--decoder-embed-dim", "8",
                          "--decoder-out-embed-dim", "8"]),
    "fconv": ("separate", ["--arch", "fconv", "--encoder-embed-dim", "8", "--decoder-embed-dim", "8",
                           "--encoder-layers", "[(8, 3)]", "--decoder-layers", "[(8, 3)]",
                           "--decoder-out-embed-dim", "8"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_are_those_of_the_original_renormalised(kind, joined, separate, tmp_path):
    name, options = KINDS[kind]
    data = {"joined": joined, "separate": separate}[name]
    checkpoint = write_model(tmp_path / "large.pt", data, *options)
    if kind == "kd_adaptive":
        assert main(["compact", str(checkpoint), "--out", str(tmp_path / "compact.pt")]) == 0
        checkpoint = tmp_path / "compact.pt"
    prune(checkpoint, data, tmp_path / "out", "--out-data", tmp_path / "data")
    pair = opened(checkpoint), opened(tmp_path / "out" / "small.pt")
    inputs = [batch(task, range(4), "train")["net_input"] for _, task in pair]
    assert_renormalised(*pair, inputs)
    assert not torch.equal(*(each["src_tokens"] for each in inputs))
    state = read_checkpoint(tmp_path / "out" / "small.pt")
    assert state["last_optimizer_state"] is None and state["cfg"].task.data == str(tmp_path / "data")


def test_separate_dictionaries_keep_what_each_side_uses_and_joined_ones_the_union(joined, separate, tmp_path):
    """The new data-bins have the same sentences."""
    by_hand = {
        "separate": [[f"w{n}" for n in range(0, 30, 3)], [f"t{n}" for n in range(1, 37, 3)]],
        "joined": [[f"w{n}" for n in range(30) if n % 3 < 2]] * 2,
    }
    for name, data in (("separate", separate), ("joined", joined)):
        checkpoint = write_model(tmp_path / f"{name}.pt", data, *SEPARATE)
        prune(checkpoint, data, tmp_path / f"{name} model", "--out-data", tmp_path / name)
        for lang, expected in zip(PAIR, by_hand[name], strict=True):
            found = (tmp_path / name / f"dict.{lang}.txt").read_text().splitlines()
            assert [line.split()[0] for line in found] == expected
            assert found[1] == (data / f"dict.{lang}.txt").read_text().splitlines()[int(expected[1][1:])]  # its count
        for subset in ("train", "valid"):
            assert text(tmp_path / name, subset) == text(data, subset)
            assert "<unk>" not in str(text(tmp_path / name, subset))


LANGUAGE_TASKS = {
    "mbart": ["--task", "translation_from_pretrained_bart", "--langs", "qaa,qab,qac", "--arch", "mbart_large",
              "--source-lang", "qaa", "--target-lang", "qab"],
    "m2m": ["--task", "translation_multi_simple_epoch", "--lang-pairs", "qaa-qab,qab-qaa", "--langs", "qaa,qab,qac",
            "--encoder-langtok", "src", "--decoder-langtok", "--arch", "transformer"],
}  # fmt: skip


@pytest.mark.parametrize("kind", LANGUAGE_TASKS)
def test_language_tokens_and_tags_stay_in_their_order(kind, tmp_path):
    """The file has one of the language tokens and a tag between other entries; no sentence has them. One of the models
    has one matrix, the other three matrices with a joined dictionary."""
    tokens = {"mbart": ["[qaa]", "[qab]", "[qac]", "<mask>"], "m2m": ["__qaa__", "__qab__", "__qac__"]}[kind]
    words = [*WORDS[:20], tokens[2], *WORDS[20:22], "<BT>", *WORDS[22:]]
    data = write_data_bin(tmp_path / "data", (words, words))
    checkpoint = write_model(tmp_path / "large.pt", data, *LANGUAGE_TASKS[kind], *SMALL)
    prune(checkpoint, data, tmp_path / "out", "--out-data", tmp_path / "new")
    (model, task), (small, its_task) = opened(checkpoint), opened(tmp_path / "out" / "small.pt")
    found, old = its_task.source_dictionary.symbols, task.source_dictionary.symbols
    assert [symbol for symbol in old if symbol in found] == found
    assert {*tokens, "<BT>"} <= set(found) and found[-1] == old[-1]
    drawn = torch.randint(3, len(found), (3, 5), generator=torch.Generator().manual_seed(1))
    drawn[0, 0] = found.index(tokens[0])
    drawn[1, -1] = found.index(tokens[2])
    again = torch.tensor([[old.index(found[token]) for token in row] for row in drawn.tolist()])
    inputs = [
        {"src_tokens": ids, "src_lengths": torch.full((3,), 5), "prev_output_tokens": ids.flip(1)}
        for ids in (again, drawn)
    ]
    assert_renormalised((model, task), (small, its_task), inputs)


def test_a_dictionary_that_the_checkpoint_names_is_not_opened_but_one_of_the_user_is(tmp_path, capsys, caplog):
    """As for M2M-100: the dictionary has a language token and padding behind the entries of the data-bin."""
    data, fixed = write_data_bin(tmp_path / "data", (WORDS, WORDS)), tmp_path / "fixed.txt"
    longer = [*WORDS, "__qab__", "madeupword0000"]
    write_dictionary(fixed, longer)
    words = [*LANGUAGE_TASKS["m2m"], "--fixed-dictionary", str(fixed), *SMALL]
    checkpoint = write_model(tmp_path / "large.pt", data, *words)
    refused(tmp_path, capsys, [checkpoint, "--data", data, "--out", tmp_path / "x.pt"], "size mismatch")
    assert f"--fixed-dictionary {fixed}"[:70] in caplog.text and "That file is not opened" in caplog.text
    fixed.unlink()
    (tmp_path / "given").mkdir()
    for lang in PAIR:
        write_dictionary(tmp_path / "given" / f"dict.{lang}.txt", longer)
    given = ("--dictionaries", tmp_path / "given")
    prune(checkpoint, data, tmp_path / "out", "--out-data", tmp_path / "new", *given)
    _, task = opened(tmp_path / "out" / "small.pt")
    expected = [f"w{n}" for n in range(30) if n % 3 < 2]
    assert task.source_dictionary.symbols[4:] == [*expected, "__qab__", "__qaa__", "__qac__"]
    recorded = read_checkpoint(tmp_path / "out" / "small.pt")["cfg"].task
    assert (recorded.data, recorded.fixed_dictionary) == (str(tmp_path / "new"), None)
    assert text(data, "train") == text(tmp_path / "new", "train")


@pytest.mark.parametrize("name", ["bart", "multi"])
def test_evaluate_and_fairseq_generate_translate_with_the_small_checkpoint(name, data_bin, tmp_path):
    """Both get the same hypotheses from it. The data-bin is one of fairseq-kd prepare."""
    from fairseq_kd.corpus.subword import subword_decoder

    large, small, new = tmp_path / "large.pt", tmp_path / "small.pt", tmp_path / "new"
    write_random(large, data_bin, *TASKS[name], *ARCHITECTURES.get(name, ()))
    prune(large, data_bin, tmp_path, "--out-data", new, "--min-count", "30")
    search, out = ("--beam", "1", "--max-len-b", "4", "--cpu"), tmp_path / "result.json"
    words = ["evaluate", str(new), "--checkpoint", str(small), "--confidence-n", "0", "--out", str(out)]
    assert main([*words, *search]) == 0
    found = json.loads(out.read_text())["hypotheses"]
    _, decode = subword_decoder(new, "qab", None)
    assert found == list(map(decode, stock_hypotheses(new, small, *search, *TASKS[name]))) and len(set(found)) > 1


def test_the_reserved_tokens_of_prepare_stay(tmp_path):
    """No sentence has them. They have the count 0, behind all other entries."""
    data, names = write_data_bin(tmp_path / "data", (WORDS, WORDS)), reserved_names(5)
    reserve(data, PAIR, len(names))
    checkpoint = write_model(tmp_path / "large.pt", data, *SEPARATE)
    prune(checkpoint, data, tmp_path / "out", "--min-count", "2")
    for lang in PAIR:
        found = (tmp_path / "out" / f"dict.{lang}.txt").read_text().splitlines()
        assert found[-5:] == ["<BT> 0", "<FT> 0", "<R3> 0", "<R4> 0", "<R5> 0"] and len(found) < len(WORDS) + 5


def text(folder, subset):
    """The sentences of a subset, as the dictionaries of the data-bin read them."""
    task = open_data(folder, PAIR, subset)
    dataset = task.dataset(subset)
    sides = ((dataset.src, task.source_dictionary), (dataset.tgt, task.target_dictionary))
    return [[dictionary.string(side[n]) for n in range(len(dataset))] for side, dictionary in sides]


def test_rare_tokens_become_unknown_with_min_count(separate, tmp_path):
    checkpoint = write_model(tmp_path / "large.pt", separate, *SEPARATE)
    prune(checkpoint, separate, tmp_path, "--min-count", "3")
    for side, lang in enumerate(PAIR):
        lines = [line for subset in ("train", "valid") for line in text(separate, subset)[side]]
        counts = Counter(" ".join(lines).split())
        found = [line.split()[0] for line in (tmp_path / f"dict.{lang}.txt").read_text().splitlines()]
        assert set(found) == {word for word, count in counts.items() if count >= 3}
        assert 0 < len(found) < len(counts)


def test_a_teacher_of_the_other_direction_and_what_prepare_keeps(data_bin, tmp_path):
    """From qab to qaa with a data-bin qaa-qab, whose subword model, text and manifest the new one has."""
    directions = ["--source-lang", "qab", "--target-lang", "qaa"]
    checkpoint = write_model(tmp_path / "large.pt", data_bin, *SEPARATE, *directions)
    prune(checkpoint, data_bin, tmp_path / "out", "--out-data", tmp_path / "new", "--min-count", "30")
    old, new = map(read_prepared, (data_bin, tmp_path / "new"))
    assert (new["source_lang"], new["target_lang"], new["subword"]) == (*PAIR, old["subword"])
    assert (tmp_path / "new" / "raw" / "test.qab").samefile(data_bin / "raw" / "test.qab")
    for subset in ("train", "test"):
        lost = new["become_unknown"][subset]
        assert new["subsets"][subset]["unknown_tokens"] == {"qaa": lost[1], "qab": lost[0]}
        assert sum(lost) and "unknown_tokens" in old["subsets"][subset]
    check_files(tmp_path / "new", new["files"])


def test_what_is_not_counted_becomes_unknown_and_is_said(separate, tmp_path, capsys):
    """The valid sets use the entries 0, 6, 12, ... of the source, and 1, 7, ... of the target; training uses more."""
    checkpoint = write_model(tmp_path / "large.pt", separate, *SEPARATE)
    keep = tmp_path / "keep.txt"
    keep.write_text("w3\nt35\n")
    prune(checkpoint, separate, tmp_path / "out", "--out-data", tmp_path / "new", "--subsets", "valid", "--keep", keep)
    said = capsys.readouterr().out
    before, after = (text(folder, "train") for folder in (separate, tmp_path / "new"))
    pruned = [{f"w{n}" for n in range(9, 30, 6)}, {f"t{n}" for n in range(4, 37, 6)}]
    for side in (0, 1):
        words = [" ".join("<unk>" if word in pruned[side] else word for word in line.split()) for line in before[side]]
        assert words == after[side]
        count = sum(line.split().count("<unk>") for line in after[side])
        assert count and f"train, {('source', 'target')[side]}: {count} of " in said
    assert "t35 " in (tmp_path / "new" / "dict.qab.txt").read_text()
    assert text(separate, "valid") == text(tmp_path / "new", "valid")


@pytest.fixture(scope="module")
def pruned(joined, tmp_path_factory):
    """(folder with small.pt, data-bin) of a transformer with random weights."""
    folder = tmp_path_factory.mktemp("pruned")
    checkpoint = write_model(folder / "large.pt", joined, "--arch", "transformer", "--share-all-embeddings", *SMALL)
    prune(checkpoint, joined, folder, "--out-data", folder / "data")
    return folder, folder / "data"


def test_word_level_distillation_cache_decode_and_evaluate_read_the_results(pruned, tmp_path, capsys):
    folder, data = pruned
    teacher = folder / "small.pt"
    options = ("--criterion", "kd_word", "--teacher", teacher)
    losses, _ = losses_of_training(data, *options, updates=3)
    assert (
        main(["cache", str(data), "--teacher", str(teacher), "--out", str(tmp_path / "c"), "--top-k", "24", "--cpu"])
        == 0
    )
    cached, _ = losses_of_training(data, *options[:2], "--teacher-cache", tmp_path / "c", updates=3)
    assert cached == pytest.approx(losses, rel=1e-4)
    words = [
        "--teacher",
        str(teacher),
        "--out",
        str(tmp_path / "d"),
        "--max-len-b",
        "9",
        "--backend",
        "fairseq",
        "--cpu",
    ]
    assert main(["decode", str(data), *words]) == 0
    (tmp_path / "ref").write_text("w3 w4\n" * 4)
    words = ["--subset", "valid", "--reference", str(tmp_path / "ref"), "--post-process", "none", "--cpu"]
    assert main(["evaluate", str(data), "--checkpoint", str(teacher), *words, "--max-len-b", "9"]) == 0
    assert "BLEU" in capsys.readouterr().out


def content(*folders) -> dict:
    return {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}


def test_the_same_command_keeps_its_results_and_another_one_is_refused(pruned, joined, capsys):
    folder, data = pruned
    before = content(folder)
    prune(folder / "large.pt", joined, folder, "--out-data", data)
    assert content(folder) == before
    words = [
        "prune-vocabulary",
        folder / "large.pt",
        "--data",
        joined,
        "--out",
        folder / "small.pt",
        "--min-count",
        "2",
    ]
    assert main([*map(str, words), "--out-data", str(data)]) == 2
    assert "was made with min_count 1, this command has 2" in capsys.readouterr().err
    assert content(folder) == before


def test_a_killed_command_continues(pruned, joined, monkeypatch, tmp_path):
    """Killed after the data-bin and before the checkpoint."""
    from fairseq_kd.pruning import prune as module

    folder, data = pruned

    def killed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "write_initial_checkpoint", killed)
        words = ["prune-vocabulary", folder / "large.pt", "--data", joined, "--out", tmp_path / "small.pt"]
        assert main([*map(str, words), "--out-data", str(tmp_path / "data")]) == 130
    assert not (tmp_path / "small.pt").exists()
    prune(folder / "large.pt", joined, tmp_path, "--out-data", tmp_path / "data")
    for name in ("dict.qaa.txt", "train.qaa-qab.qaa.bin", "valid.qaa-qab.qab.idx"):
        assert (tmp_path / "data" / name).read_bytes() == (data / name).read_bytes()
    ours, theirs = (read_checkpoint(path / "small.pt")["model"] for path in (tmp_path, folder))
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


def refused(tmp_path, capsys, words, message) -> None:
    before = content(tmp_path)
    assert main(["prune-vocabulary", *map(str, words)]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "fairseq_kd: error" in line]
    assert len(said) == 1 and message in said[0]
    assert content(tmp_path) == before


def test_bad_input_is_one_clear_error_and_nothing_is_written(pruned, joined, separate, tmp_path, capsys):
    folder, data = pruned
    large, small, out = folder / "large.pt", folder / "small.pt", tmp_path / "new" / "x.pt"
    listed = tmp_path / "keep.txt"
    listed.write_text("w3\nno-such-token\n")
    (tmp_path / "other.pt").write_bytes(large.read_bytes())
    recorded = [small, "--data", data, "--out", out]  # its languages are recorded
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "dict.qaa.txt").write_text("another 1\n")
    for words, message in (
        ([small, "--data", data, "--out", out], "nothing to prune"),
        ([large, "--data", separate, "--out", out], "34 and 41 entries, and the first difference is at index 4: "),
        ([f"{large}:{small}", "--data", joined, "--out", out], "names 2 checkpoints joined by ':'"),
        ([large, "--data", joined, "--out", large], "is the checkpoint itself"),
        ([large, "--data", joined, "--out", tmp_path / "other.pt"], "exists and is not a pruned checkpoint"),
        ([large, "--data", joined, "--out", tmp_path / "full" / "x.pt"], "exists and is another dictionary"),
        ([large, "--data", joined, "--out", out, "--subsets", "test"], "has the subsets train, valid"),
        ([large, "--data", joined, "--out", out, "--min-count", "0"], "--min-count 0: must be 1 or above"),
        ([large, "--data", joined, "--out", out, "--keep", listed], "'no-such-token' is in no dictionary"),
        ([large, "--data", joined, "--out", out, "--keep", tmp_path / "no"], "cannot be read (No such file"),
        ([large, "--data", joined, "--out", out, "--dictionaries", tmp_path], "dict.qaa.txt is not there"),
        ([*recorded, "--lang-pair", "qab-qaa"], "translates qaa-qab, and nothing else"),
        ([large, "--data", tmp_path / "no", "--out", out], "is not a folder: give a data-bin"),
    ):
        refused(tmp_path, capsys, words, message)


def test_a_model_whose_vocabulary_enters_in_another_way_is_refused(joined, tmp_path, capsys, monkeypatch):
    from fairseq.models.transformer import TransformerModel

    adaptive = ["--criterion", "adaptive_loss", "--adaptive-softmax-cutoff", "10,20"]
    checkpoint = write_model(tmp_path / "adaptive.pt", joined, *SEPARATE, *adaptive)
    words = ["--data", joined, "--out", tmp_path / "x.pt"]
    refused(tmp_path, capsys, [checkpoint, *words], "has an adaptive vocabulary (decoder.adaptive_softmax)")
    plain = write_model(tmp_path / "plain.pt", joined, *SEPARATE)
    usual = TransformerModel.get_normalized_probs

    def sharper(model, net_output, log_probs, sample=None):
        logits = net_output[0]
        return usual(model, (logits * logits.size(-1), net_output[1]), log_probs, sample)

    monkeypatch.setattr(TransformerModel, "get_normalized_probs", sharper)
    refused(tmp_path, capsys, [plain, *words], "its vocabulary enters in another way")


def test_the_commands_of_the_page_on_vocabularies(joined, tmp_path, monkeypatch, capsys):
    (block,) = blocks_run_by("test_the_commands_of_the_page_on_vocabularies")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "teacher").mkdir()
    (tmp_path / "data-bin").mkdir()
    (tmp_path / "data-bin" / "mine").symlink_to(joined)
    write_model("teacher/checkpoint_best.pt", joined, "--arch", "transformer", "--share-all-embeddings", *SMALL)
    for command in block.commands():
        name, *words = command.split()
        assert name == "fairseq-kd" and main(words) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[1].split() == ["source", "tokens", "34", "24"]
    assert said[3].split()[0] == "parameters"
    assert any("29 tokens of 4 sentences" in line for line in said)
