"""A damaged file of an artefact is one clear error, or has no effect: never a traceback, never another result."""

import itertools
import shutil

import pytest
from faults_helpers import ALL, DAMAGES, SHORT, assert_one_error, command, content, damage, unpack

SIDES = [f"{subset}.qaa-qab.{lang}.{kind}" for subset in ("train", "valid", "test") for lang in ("qaa", "qab")
         for kind in ("bin", "idx")]  # fmt: skip
PREPARED = [
    *SIDES,
    "dict.qaa.txt",
    "dict.qab.txt",
    "raw/valid.qaa",
    "raw/test.qab",
    "subword/joint.spm",
    "manifest.json",
]
TRAINING = [name for name in SIDES if name.startswith("train")]


def share(cases: list, few: list) -> list:
    return cases if ALL else few


@pytest.fixture
def here(tmp_path):
    """A folder with inputs of its own, in `inputs`, and a folder for the output, `out-here`."""
    unpack(tmp_path / "here" / "inputs")
    (tmp_path / "here" / "out-here").mkdir()
    return tmp_path / "here"


def assert_refused_or_same(answer, out, expected: dict) -> None:
    """expected: the files that the command makes without the damage."""
    assert "Traceback" not in answer.text, answer.text[-3000:]
    if answer.status != 0:
        assert_one_error(answer)
        return
    found = content(out)
    assert sorted(found) == sorted(expected), answer.text
    assert [name for name in expected if found[name] != expected[name]] == [], answer.text


COMMANDS = ("mix", "noise", "cache", "decode", "mix")
ROTATING = [(case, COMMANDS[at % len(COMMANDS)]) for at, case in enumerate(itertools.product(PREPARED, DAMAGES))]
PREPARED_CASES = share(
    [(file, how, name) for (file, how), name in ROTATING],
    [(TRAINING[2], "flip", "cache"), (TRAINING[1], "cut", "mix"), ("dict.qab.txt", "garbage", "noise")],
)


@pytest.mark.parametrize(("file", "how", "name"), PREPARED_CASES)
def test_a_damaged_data_bin(server, fault_inputs, undisturbed, here, file, how, name):
    damage(here / "inputs" / "data-bin" / file, how)
    answer = server.run(command(name, here / "inputs", here / "out-here"), here)
    expected = {key: value for key, value in undisturbed(name)[0].items() if key != "out/manifest.json"}
    if answer.status == 0:
        (here / "out-here" / "out" / "manifest.json").unlink()  # it holds the place of the inputs
    else:
        assert_one_error(answer, file.rpartition("/")[2])
        assert not (here / "out-here" / "out" / "manifest.json").exists()
    assert_refused_or_same(answer, here / "out-here", expected)


STOCK = ("mix", "noise", "cache")
STOCK_CASES = [  # without a hash, one changed id in the data or one changed word cannot be seen
    (file, how, STOCK[at % len(STOCK)])
    for at, (file, how) in enumerate(itertools.product([*TRAINING, "dict.qaa.txt"], DAMAGES))
    if how != "flip" or file.endswith(".idx")
]


@pytest.mark.parametrize(("file", "how", "name"), share(STOCK_CASES, [(TRAINING[1], "flip", "mix")]))
def test_a_damaged_data_bin_of_stock_fairseq(server, here, file, how, name):
    data_bin = here / "inputs" / "data-bin"
    for folder in ("subword", "raw"):
        shutil.rmtree(data_bin / folder)
    (data_bin / "manifest.json").unlink()
    damage(data_bin / file, how)
    words = command(name, here / "inputs", here / "out-here")
    words += ["--post-process", "sentencepiece"] if name == "noise" else []
    if name == "mix":
        words[2] = str(data_bin)  # the decoded data-bin has another manifest
    answer = server.run(words, here)
    assert_one_error(answer, file.removesuffix(".bin").removesuffix(".idx"))
    assert not (here / "out-here" / "out").exists() or name == "cache"


CACHE_FILES = ("ids", "delta", "tail", "offsets", "crc", "shape_ids", "shapes")
CACHE_CASES = [(f"{name}.bin", how) for name in CACHE_FILES for how in DAMAGES]
CACHE_CASES += [("manifest.json", how) for how in DAMAGES]


@pytest.mark.skipif(not ALL, reason="make faults runs it")
@pytest.mark.parametrize(("file", "how"), CACHE_CASES)
def test_a_damaged_cache(server, fault_inputs, here, file, how):
    assert server.run(command("cache", here / "inputs", here / "out-here"), here).status == 0
    cache = here / "out-here" / "out"
    damage(cache / file, how)
    assert_one_error(
        server.run(["verify-cache", cache, "--teacher-data", here / "inputs" / "dictionaries", "--cpu"], here),
        str(cache),
    )


PARTS_CASES = [(name, file, how) for name in ("cache", "decode")
               for file in ("000001.bin", "shapes.bin", "manifest.json")
               for how in DAMAGES if (name, file) != ("decode", "shapes.bin")]  # fmt: skip


@pytest.mark.parametrize(("name", "file", "how"), share(PARTS_CASES, [("cache", "000001.bin", "flip")]))
def test_a_damaged_part_of_unfinished_work(server, fault_inputs, undisturbed, tmp_path, name, file, how):
    here = tmp_path / "here"
    here.mkdir()
    expected, events = undisturbed(name)
    assert server.run(command(name, fault_inputs, here), here, kill_at=round(0.6 * events)).status == -9
    parts = here / "out" / "parts"
    assert len(list(parts.glob("0*.bin"))) > 1
    damage(parts / file, how)
    answer = server.run(command(name, fault_inputs, here), here)
    if answer.status != 0:
        assert_one_error(answer, str(here / "out"))
        return
    assert_refused_or_same(answer, here, expected)


TEACHER_CASES = [(file, how) for file in ("model.bin", "config.json", "manifest.json") for how in DAMAGES]


@pytest.mark.parametrize(("file", "how"), share(TEACHER_CASES, [("model.bin", "flip")]))
def test_a_damaged_converted_teacher_is_converted_again(server, fault_inputs, tmp_path, file, how):
    pytest.importorskip("ctranslate2")
    here = tmp_path / "here"
    here.mkdir()
    words = ["decode", fault_inputs / "data-bin", "--teacher", fault_inputs / "teacher.pt", "--teacher-data"]
    words += [fault_inputs / "dictionaries", "--backend", "ctranslate2", "--beam", 2]
    environment = {"FAIRSEQ_KD_CACHE": str(here / "kept")}
    assert server.run([*words, "--out", here / "whole", *SHORT], here, environment=environment).status == 0
    (folder,) = (here / "kept" / "ctranslate2").iterdir()
    before = content(folder)
    damage(folder / file, how)
    answer = server.run([*words, "--out", here / "out", *SHORT], here, environment=environment)
    assert_refused_or_same(answer, here / "out", content(here / "whole"))
    assert "The model is converted again" in answer.text and str(folder) in answer.text
    assert content(folder) == before


@pytest.mark.skipif(not ALL, reason="make faults runs it")
@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_result(server, fault_inputs, tmp_path, how):
    here = tmp_path / "here"
    here.mkdir()
    evaluate = ["evaluate", fault_inputs / "data-bin", "--checkpoint", fault_inputs / "teacher.pt", *SHORT]
    for beam in (1, 2):
        assert server.run([*evaluate, "--beam", beam, "--out", here / f"{beam}.json"], here).status == 0
    damage(here / "2.json", how)
    assert_one_error(server.run(["compare", here / "1.json", here / "2.json"], here), "2.json")


@pytest.mark.skipif(not ALL, reason="make faults runs it")
@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_measurement_of_select_teacher(server, fault_inputs, undisturbed, tmp_path, how):
    here = tmp_path / "here"
    here.mkdir()
    words = command("select-teacher", fault_inputs, here)
    assert server.run(words, here).status == 0
    measured = sorted((here / "out" / "measured").glob("*.json"))[0]
    damage(measured, how)
    answer = server.run(words, here)
    if answer.status != 0:
        assert_one_error(answer, measured.name)
        return
    assert_refused_or_same(answer, here, undisturbed("select-teacher")[0])
