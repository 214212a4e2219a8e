"""Language codes with hyphens and full stops, and folders of more than one pair."""

import shutil

import pytest

from fairseq_kd.artifacts.hashes import data_files
from fairseq_kd.artifacts.manifest import read_manifest
from fairseq_kd.cli.main import main
from fairseq_kd.core.errors import KDError
from fairseq_kd.inference.opening import infer_languages


def renamed(data_bin, out, source: str, target: str, *, manifest: bool):
    """A copy of a data-bin as if it had been made for the languages `source` and `target`."""
    out.mkdir()
    for path in data_bin.iterdir():
        if path.is_file() and path.name != "manifest.json":
            name = path.name.replace("qaa-qab", f"{source}-{target}")
            name = name.replace(".qaa.", f".{source}.").replace(".qab.", f".{target}.")
            shutil.copyfile(path, out / name)
    if manifest:
        (out / "manifest.json").write_text(f'{{"source_lang": "{source}", "target_lang": "{target}"}}')
    return out


@pytest.mark.parametrize("manifest", [False, True])
@pytest.mark.parametrize(("source", "target"), [("en", "pt-BR"), ("pt-BR", "pt"), ("zh.Hans", "Hans")])
def test_codes_with_hyphens_and_full_stops_are_read(data_bin, tmp_path, source, target, manifest):
    folder = renamed(data_bin, tmp_path / "in", source, target, manifest=manifest)
    assert main(["mix", str(folder), "--times", "0.5", "--out", str(tmp_path / "mixed")]) == 0
    noisy = ["noise", "--data-bin", str(folder), "--level", "subword", "--delete", "0.1"]
    assert main([*noisy, "--out", str(tmp_path / "noisy")]) == 0
    for out in (tmp_path / "mixed", tmp_path / "noisy"):
        made = read_manifest(out)
        assert (made["source_lang"], made["target_lang"]) == (source, target)
        assert len(data_files(out, "train", source, target)) == 4
    sides = [(tmp_path / "noisy" / f"train.{source}-{target}.{lang}.bin").read_bytes() for lang in (source, target)]
    plain = [(data_bin / f"train.qaa-qab.{lang}.bin").read_bytes() for lang in ("qaa", "qab")]
    assert sides[0] != plain[0] and sides[1] == plain[1]  # noise is in the source alone


def test_a_checkpoint_that_records_no_languages_has_those_of_its_data(data_bin, tmp_path):
    from omegaconf import OmegaConf

    from fairseq_kd.inference.frozen import configure_own_task

    folder = renamed(data_bin, tmp_path / "in", "en", "pt-BR", manifest=False)
    task = {"_name": "translation", "data": "elsewhere", "source_lang": None, "target_lang": None}
    state = {"cfg": OmegaConf.create({"task": task, "model": {"_name": "transformer"}})}
    configure_own_task("checkpoint.pt", state, data=folder)
    assert (state["cfg"].task.source_lang, state["cfg"].task.target_lang) == ("en", "pt-BR")


def test_a_folder_of_several_pairs_is_not_guessed(data_bin, tmp_path):
    folder = renamed(data_bin, tmp_path / "in", "de", "en", manifest=False)
    for name in ("dict.de.txt", "train.de-en.de.idx"):
        shutil.copyfile(folder / name, folder / name.replace("de", "fr"))
    with pytest.raises(KDError, match=r"more than one language pair \(de-en, fr-en\)"):
        infer_languages(folder)
    (folder / "train.fr-en.fr.idx").rename(folder / "test.fr-en.fr.idx")
    assert infer_languages(folder) == ("de", "en")  # what the training set says goes first


def test_a_missing_dictionary_is_still_the_error_that_is_named(data_bin, tmp_path, capsys):
    folder = renamed(data_bin, tmp_path / "in", "de", "en", manifest=False)
    (folder / "dict.en.txt").unlink()
    assert main(["mix", str(folder), "--times", "1", "--out", str(tmp_path / "out")]) == 2
    assert "has no dict.en.txt" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["[1]", "null", "3", "{"])
def test_a_manifest_that_is_none_is_one_clear_error(content, data_bin, tmp_path):
    folder = renamed(data_bin, tmp_path / "in", "de", "en", manifest=False)
    (folder / "manifest.json").write_text(content)
    with pytest.raises(KDError, match=r"manifest\.json is damaged"):
        infer_languages(folder)
