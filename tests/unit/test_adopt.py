"""fairseq-kd adopt: what it keeps beside a data-bin of stock fairseq-preprocess, and what it refuses."""

import hashlib
import json
import os
import shutil

import pytest
from data_bin_helpers import COUNTS, LANGUAGES, binarise, write_text

from fairseq_kd.artifacts.manifest import read_manifest
from fairseq_kd.cli.main import main
from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus import adopt as module
from fairseq_kd.corpus.adopt import STAGE, adopt
from fairseq_kd.corpus.adopt_request import Adoption, parse_files, parse_models
from fairseq_kd.corpus.subword import SubwordNMTModel, load_subword_models
from fairseq_kd.corpus.text import write_lines

SOURCE, TARGET = LANGUAGES


@pytest.fixture(scope="module")
def text(data_bin, tmp_path_factory):
    """Segmented text and, as raw.SUBSET.LANG, the text before segmentation."""
    folder = tmp_path_factory.mktemp("text")
    write_text(data_bin, folder)
    for subset in ("valid", "test"):
        for lang in LANGUAGES:
            lines = (data_bin / "raw" / f"{subset}.{lang}").read_text().splitlines()[: COUNTS[subset]]
            write_lines(folder / f"raw.{subset}.{lang}", lines)
    return folder


@pytest.fixture(scope="module")
def stock(data_bin, text, tmp_path_factory):
    """A data-bin of fairseq-preprocess, with the log that it writes."""
    return binarise(text, tmp_path_factory.mktemp("stock") / "bin", data_bin / "dict.qaa.txt")


@pytest.fixture
def copy(stock, tmp_path):
    return shutil.copytree(stock, tmp_path / "bin")


@pytest.fixture
def words(data_bin, text, copy):
    """The words of the command, for the copy."""
    return [
        *("adopt", str(copy), "--subword-model", str(data_bin / "subword" / "joint.spm")),
        *("--reference", *(f"{name}={text}/raw.{name}.{TARGET}" for name in ("valid", "test"))),
        *("--source", *(f"{name}={text}/raw.{name}.{SOURCE}" for name in ("valid", "test"))),
    ]


def content(folder) -> dict:
    return {
        str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def refused(words, capsys, *fragments) -> None:
    """Status 2 and one line with the fragments."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fairseq_kd: error:")]
    for fragment in fragments:
        assert fragment in line


def test_it_keeps_what_prepare_keeps_and_no_binary_file_changes(data_bin, stock, copy, words):
    assert main(words) == 0
    before, after = content(stock), content(copy)
    assert {name: after[name][0] for name in before} == {name: value[0] for name, value in before.items()}
    assert set(after) - set(before) == {
        *(f"raw/{subset}.{lang}" for subset in ("test", "valid") for lang in LANGUAGES),
        *("subword/joint.spm", "manifest.json"),
    }
    ours, theirs = read_manifest(copy), read_manifest(data_bin)
    for key in ("format", "kind", "source_lang", "target_lang", "subword", "joint_dictionary", "form"):
        assert ours[key] == theirs[key], key
    assert set(theirs) <= set(ours)
    assert ours["subsets"]["test"]["pairs"] == COUNTS["test"] and ours["subsets"].keys() == theirs["subsets"].keys()
    listed = {name for name in after if name.startswith(("raw/", "subword/", "dict.")) or name[-4:] in (".bin", ".idx")}
    assert ours["files"] == {name: after[name][0] for name in listed}
    for name in ("raw/test.qaa", "raw/test.qab"):
        assert (copy / name).read_text().splitlines() == (data_bin / name).read_text().splitlines()[: COUNTS["test"]]
    assert ours["subsets"]["test"]["text"][TARGET] == {"lines": COUNTS["test"], "same": COUNTS["test"]}


def test_the_same_command_again_changes_nothing_and_another_one_needs_replace(copy, words, text, capsys):
    assert main(words) == 0
    before = content(copy)
    assert main(words) == 0 and "nothing to do" in capsys.readouterr().out
    assert content(copy) == before
    fewer = words[: words.index("--source")]
    refused(fewer, capsys, "was adopted with sources.", "--replace")
    assert content(copy) == before
    assert main([*fewer, "--replace"]) == 0
    assert sorted(path.name for path in (copy / "raw").iterdir()) == ["test.qab", "valid.qab"]
    assert main(fewer) == 0


def test_other_commands_need_no_more_options(copy, words, teacher, tmp_path, capsys):
    """Before, each of them refuses with the command that helps; afterwards they run."""
    pytest.importorskip("ctranslate2")
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    shutil.copy(teacher, checkpoints / "checkpoint_last.pt")
    short, out = ["--max-len-b", "5", "--cpu"], tmp_path / "out"
    closest = ["--subset", "valid", "--nbest", "2", "--beam", "2", "--select", "closest", "--backend", "fairseq"]
    commands = [
        ["evaluate", copy, "--checkpoint", teacher, *short],
        ["select-teacher", copy, "--checkpoints", checkpoints, "--by", "low-loss", *short],
        ["decode", copy, "--teacher", teacher, "--out", out / "decoded", *closest, *short],
        ["noise", "--data-bin", copy, "--out", out / "noisy", "--delete", "0.2"],
        ["noise", "--data-bin", copy, "--out", out / "chars", "--delete", "0.2", "--level", "char"],
        ["export", teacher, "--to", "ctranslate2", "--data", copy, "--out", out / "exported", *short],
    ]
    for command in commands:
        refused(
            command, capsys, "scores of subwords mean nothing", f"run `fairseq-kd adopt {copy} --subword-model FILE"
        )
    assert not out.exists() and not list(checkpoints.glob("selection/measured/*"))
    assert main(words) == 0
    for command in commands:
        assert main([str(word) for word in command]) == 0, command
    assert (out / "exported" / "subword" / "joint.spm").is_file()
    for made in ("decoded", "noisy"):
        manifest = read_manifest(out / made)
        assert manifest["subword"]["kind"] == "sentencepiece" and "raw/test.qab" in manifest["files"]


def test_it_evaluates_as_the_data_bin_of_prepare_does(copy, words, data_bin, teacher, tmp_path):
    """The first sentences of the subset, with references and source: noise levels too."""
    assert main(words) == 0
    scored = ["--checkpoint", str(teacher), "--max-len-b", "5", "--cpu", "--confidence-n", "0"]
    found = {}
    for name, folder in (("prepared", data_bin), ("adopted", copy)):
        path = tmp_path / f"{name}.json"
        more = ["--noise-levels", "30"] if name == "adopted" else []
        assert main(["evaluate", str(folder), *scored, *more, "--out", str(path)]) == 0
        found[name] = json.loads(path.read_text())
    for key in ("hypotheses", "references"):
        assert found["adopted"][key] == found["prepared"][key][: COUNTS["test"]], key
    assert found["adopted"]["post_process"] == "sentencepiece" and found["adopted"]["robustness"]["levels"]


@pytest.fixture(scope="module")
def codes(data_bin, tmp_path_factory):
    """A folder with the codes of subword-nmt, and a data-bin of text segmented by them."""
    folder = tmp_path_factory.mktemp("codes")
    lines = {lang: (data_bin / "raw" / f"test.{lang}").read_text().splitlines() for lang in LANGUAGES}
    SubwordNMTModel.train((line for lang in LANGUAGES for line in lines[lang]), 60, folder / "joint.codes")
    model = SubwordNMTModel(folder / "joint.codes")
    (folder / "text").mkdir()
    for subset in COUNTS:
        for lang in LANGUAGES:
            write_lines(folder / "text" / f"{subset}.{lang}", [model.encode(line) for line in lines[lang]])
    words = sorted({word for lang in LANGUAGES for line in lines[lang] for word in model.encode(line).split(" ")})
    write_lines(folder / "dict.txt", [f"{word} 1" for word in words])
    binarise(folder / "text", folder / "bin", folder / "dict.txt")
    return folder


def test_codes_of_subword_nmt_are_kept_and_a_model_of_the_other_kind_is_refused(codes, copy, data_bin, text, capsys):
    spm, bpe = data_bin / "subword" / "joint.spm", codes / "joint.codes"
    mine = shutil.copytree(codes / "bin", copy.with_name("mine"))
    misfit = ("does not fit the text in qaa", "pieces in another way")
    refused(["adopt", mine, "--subword-model", spm], capsys, *misfit)
    refused(["adopt", mine, "--subword-model", "none"], capsys, *misfit)
    refused(["adopt", copy, "--subword-model", bpe], capsys, *misfit)
    refused(["adopt", copy, "--subword-model", "none"], capsys, *misfit)
    assert not {"manifest.json", "subword", "raw", STAGE} & (set(os.listdir(mine)) | set(os.listdir(copy)))
    assert main(["adopt", str(mine), "--subword-model", str(bpe), "--reference", f"test={data_bin}/raw/test.qab"]) == 0
    assert load_subword_models(mine, *LANGUAGES)[TARGET].kind == "subword-nmt"
    assert main(["adopt", str(copy), "--subword-model", f"{SOURCE}={spm}", f"{TARGET}={spm}"]) == 0


def test_a_model_of_the_same_kind_with_other_pieces_is_refused(data_bin, copy, tmp_path, capsys):
    from fairseq_kd.corpus.sentencepiece_model import SentencePieceModel

    lines = (data_bin / "raw" / f"test.{SOURCE}").read_text().splitlines()
    SentencePieceModel.train(lines, 60, tmp_path / "other.spm")
    refused(["adopt", copy, "--subword-model", tmp_path / "other.spm"], capsys, "in another way, for example")


def test_text_that_is_not_the_text_of_the_subset_is_refused(data_bin, copy, text, tmp_path, capsys):
    given = ["adopt", copy, "--subword-model", data_bin / "subword" / "joint.spm", "--reference"]
    lines = (text / "raw.test.qab").read_text().splitlines()
    write_lines(tmp_path / "short", lines[:-1])
    write_lines(tmp_path / "shifted", [*lines[1:], lines[0]])
    refused(
        [*given, f"test={tmp_path}/short"], capsys, f"short has {len(lines) - 1} lines", f"has {len(lines)} sentences"
    )
    refused([*given, f"test={tmp_path}/shifted"], capsys, "is not aligned with", "line 1 is the first")
    refused([*given, f"other={tmp_path}/short"], capsys, "has no subset 'other'; it has test, train, valid")
    refused([*given, f"train={tmp_path}/short"], capsys, "has no effect")
    refused([*given, f"test={tmp_path}/none"], capsys, f"--reference: {tmp_path}/none is not there")
    assert not {"manifest.json", "subword", "raw", STAGE} & set(os.listdir(copy))


def test_words_of_the_options():
    assert parse_models(["a.spm"]) == {"": "a.spm"} and parse_models(["de=a", "en=b"]) == {"de": "a", "en": "b"}
    assert parse_files("--reference", ["test=a=b"], "SUBSET") == {"test": "a=b"}
    for words, message in ((["test"], "must be SUBSET=FILE"), (["a=1", "a=2"], "a is given twice")):
        with pytest.raises(KDError, match=message):
            parse_files("--reference", words, "SUBSET")


@pytest.mark.parametrize("moved", range(7))
def test_a_killed_adopt_is_finished_by_the_next_one(moved, copy, data_bin, text, monkeypatch):
    """The process ends before the files are moved, or after `moved` of them."""
    models = {"": str(data_bin / "subword" / "joint.spm")}
    texts = [{name: f"{text}/raw.{name}.{lang}" for name in ("valid", "test")} for lang in (TARGET, SOURCE)]
    calls, rename = [], module.rename

    def killed(*paths):
        if len(calls) == moved:
            raise KeyboardInterrupt
        calls.append(paths)
        rename(*paths)

    monkeypatch.setattr(module, "rename", killed)
    if moved < 6:
        with pytest.raises(KeyboardInterrupt):
            adopt(copy, Adoption(dict(models), *texts), say=lambda line: None)
        assert not (copy / "manifest.json").exists() and (copy / STAGE).is_dir()
    monkeypatch.setattr(module, "rename", rename)
    said = []
    manifest = adopt(copy, Adoption(dict(models), *texts), say=said.append)
    assert manifest == read_manifest(copy) and not (copy / STAGE).exists()
    assert (len(said) == 1 and "nothing to do" in said[0]) == (moved < 6)
    for name, expected in manifest["files"].items():
        assert hashlib.sha256((copy / name).read_bytes()).hexdigest() == expected


def test_what_is_there_already_is_not_replaced(data_bin, copy, words, capsys):
    model = data_bin / "subword" / "joint.spm"
    refused(["adopt", data_bin, "--subword-model", model], capsys, "has its own subword model")
    (copy / "raw").mkdir()
    refused(words, capsys, f"{copy / 'raw'} exists")
    (copy / "raw").rmdir()
    assert main(words) == 0
    path = copy / "test.qaa-qab.qab.bin"
    path.write_bytes(path.read_bytes()[::-1])
    refused(words, capsys, "was changed after it was made", "--replace")


def test_references_that_were_not_kept_are_asked_for(copy, data_bin, teacher, text, capsys):
    assert main(["adopt", str(copy), "--subword-model", str(data_bin / "subword" / "joint.spm")]) == 0
    scored = ["evaluate", copy, "--checkpoint", teacher, "--max-len-b", "5", "--cpu"]
    refused(scored, capsys, "keeps no references of 'test'", "give --reference FILE")
    scored += ["--reference", f"{text}/raw.test.qab"]
    assert main([str(word) for word in scored]) == 0
    refused([*scored, "--noise-levels", "10"], capsys, "keeps no source text of 'test'", "--source SUBSET=FILE")


def test_export_takes_a_model_for_a_data_bin_without_one(stock, data_bin, teacher, text, tmp_path, codes, capsys):
    pytest.importorskip("ctranslate2")
    words = ["export", teacher, "--to", "ctranslate2", "--max-len-b", "5", "--cpu"]
    words += ["--reference", f"{text}/raw.test.qab", "--data", stock, "--out", tmp_path / "out", "--subword-model"]
    refused([*words, codes / "joint.codes"], capsys, "does not fit the text")
    refused([*words, data_bin / "subword" / "joint.spm", "--post-process", "none"], capsys, "must be sentencepiece")
    assert main([str(word) for word in [*words, data_bin / "subword" / "joint.spm"]]) == 0
    manifest = read_manifest(tmp_path / "out")
    assert manifest["subword"]["files"] == {SOURCE: "joint.spm", TARGET: "joint.spm"}
    assert "subword/joint.spm" in manifest["files"]
    words[words.index("--data") + 1] = data_bin
    refused([*words, data_bin / "subword" / "joint.spm"], capsys, "--subword-model has no effect")
