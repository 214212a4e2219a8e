"""Artefacts of the commit before the mechanism of `fairseq_kd.artifacts` are read, continued or refused as before.

tests/older/README.md says how they were made. Unfinished work is continued only by the libraries that began it, so the
tests that continue it name the recorded versions instead of the installed ones.
"""

import json
import shutil
import tarfile

import numpy as np
import pytest
from conftest import PACKAGE, ROOT

from fairseq_kd.cache.make import CachingOptions, make_cache
from fairseq_kd.cache.reader import CacheReader
from fairseq_kd.cache.teacher_rows import TeacherRows
from fairseq_kd.cli.main import main
from fairseq_kd.core.errors import KDError
from fairseq_kd.sequence.decode import decode
from fairseq_kd.sequence.decode_options import DecodeOptions

MADE_IN, MADE_BY = "/tmp/older/work", "/tmp/older/code/fairseq_kd"
CACHING = CachingOptions(top_k=4, cpu=True, tail_shapes=2)
DECODING = DecodeOptions(strategy="beam", beam=2, max_len_a=0, max_len_b=5, backend="fairseq", cpu=True)


@pytest.fixture
def older(tmp_path):
    """A folder with the artefacts, at another place than where they were made."""
    with tarfile.open(ROOT / "tests" / "older" / "older.tar.xz") as archive:
        archive.extractall(tmp_path / "older", filter="data")
    return tmp_path / "older"


def content(folder) -> dict:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(*words) -> int:
    return main([str(word) for word in words])


def installed(monkeypatch, versions: dict, *modules: str) -> None:
    """Let the modules find these versions of libraries."""
    for module in modules:
        monkeypatch.setattr(f"fairseq_kd.{module}.library_versions", lambda: dict(versions))


COMMANDS = {  # artefact: (the command that made it, the same with another option)
    "data-bin": (
        "prepare text --source-lang qaa --target-lang qab --raw {}/raw --vocab-size 64",
        "prepare text --source-lang qaa --target-lang qab --raw {}/raw --vocab-size 65",
    ),
    "noised": (
        "noise --data-bin {}/data-bin --delete 0.2 --swap 0.1 --side both",
        "noise --data-bin {}/data-bin --delete 0.3 --swap 0.1 --side both",
    ),
    "mixed": ("mix {0}/data-bin {0}/decoded --times 1 1", "mix {0}/data-bin {0}/decoded --times 1 2"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_finished_data_bin_is_kept_by_its_command_and_refused_by_another(older, name, capsys):
    same, other = ([*command.format(older).split(), "--out", older / name] for command in COMMANDS[name])
    before = content(older / name)
    assert run(*same) == 0 and content(older / name) == before
    assert run(*other) == 2 and content(older / name) == before
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("fairseq_kd: error:") and str(older / name) in error


def test_a_finished_cache_is_read_and_kept(older, monkeypatch):
    paths = older / "data-bin", older / "teacher.pt", older / "cache"
    before = content(older / "cache")
    monkeypatch.setattr(TeacherRows, "__call__", None)  # nothing is computed again
    assert make_cache(*paths, CACHING, block_tokens=300, teacher_data=older / "data-bin")["sentences"] == 60
    with pytest.raises(KDError, match="--top-k 4, this command has 5"):
        make_cache(
            *paths, CachingOptions(top_k=5, cpu=True, tail_shapes=2), block_tokens=300, teacher_data=older / "data-bin"
        )
    assert content(older / "cache") == before
    reader = CacheReader(older / "cache")
    rows = reader.rows(reader.sentence_rows(np.arange(60)))
    assert len(reader) == 60 and rows.ids.shape == (reader.manifest["tokens"], 4) and (rows.delta[:, 0] == 0).all()


def test_an_unfinished_cache_is_continued_with_the_parts_that_it_has(older, monkeypatch):
    paths, parts = (older / "data-bin", older / "teacher.pt"), older / "cache-unfinished" / "parts"
    begun = json.loads((parts / "manifest.json").read_text())
    made = {int(path.stem): path.read_bytes() for path in parts.glob("0*.bin")}
    installed(monkeypatch, begun["versions"] | {"torch": "1.0"}, "cache.make")
    with pytest.raises(KDError, match=r"versions\.torch \S+, this command has 1\.0"):
        make_cache(*paths, older / "cache-unfinished", CACHING, block_tokens=300, teacher_data=older / "data-bin")
    installed(monkeypatch, begun["versions"], "cache.make")
    computed, compute = [], TeacherRows.__call__
    monkeypatch.setattr(TeacherRows, "__call__", lambda self, *args: computed.append(args[0]) or compute(self, *args))
    make_cache(*paths, older / "cache-unfinished", CACHING, block_tokens=300, teacher_data=older / "data-bin")
    found, whole = (CacheReader(older / name) for name in ("cache-unfinished", "cache"))
    assert len(computed) in (len(made) - 1, len(made))  # every second block existed
    np.testing.assert_array_equal(found.offsets, whole.offsets)
    np.testing.assert_array_equal(found.crc, whole.crc)
    everything = np.arange(found.manifest["tokens"])
    np.testing.assert_allclose(found.rows(everything).tail, whole.rows(everything).tail, atol=0.01)
    ids = (older / "cache-unfinished" / "ids.bin").read_bytes()  # the part's rows are in it as they were
    first = found.rows(np.arange(found.offsets[computed[0]])).ids.tobytes()
    assert ids.startswith(first) and made[0].startswith(first)


def test_a_finished_decoded_data_bin_is_kept_and_an_unfinished_one_is_continued(older, monkeypatch):
    paths, parts = (older / "data-bin", str(older / "teacher.pt")), older / "decoded-unfinished" / "parts"
    made = [json.loads(line) for path in sorted(parts.glob("0*.bin")) for line in path.read_text().splitlines()]
    before = content(older / "decoded")
    decode(*paths, older / "decoded", DECODING, block_sentences=10, teacher_data=older / "data-bin")
    assert content(older / "decoded") == before
    installed(monkeypatch, json.loads((parts / "manifest.json").read_text())["versions"], "sequence.decode")
    manifest = decode(
        *paths, older / "decoded-unfinished", DECODING, block_sentences=10, teacher_data=older / "data-bin"
    )
    assert manifest["pairs"] == 60 and not parts.exists()
    text = (older / "decoded-unfinished" / "train.hypotheses.qab.tsv").read_text().splitlines()
    scores = {tuple(line.split("\t")[:2]): float(line.split("\t")[3]) for line in text}
    numbers = [number for number in range(60) if number // 10 % 2 == 0]  # the first of two shards
    for number, (listed, _, _) in zip(numbers, made, strict=True):
        for rank, (score, _, _) in enumerate(listed):
            assert scores[str(number), str(rank)] == float(f"{score:.6g}")
    with pytest.raises(KDError, match="settings"):
        decode(
            *paths,
            older / "decoded",
            DecodeOptions(**vars(DECODING) | {"beam": 3}),
            block_sentences=10,
            teacher_data=older / "data-bin",
        )


def test_results_are_compared_as_before(older, tmp_path):
    before = json.loads((older / "comparison.json").read_text())
    results = older / "beam-1.json", older / "beam-4.json"
    assert run("compare", *results, "--paired-bs-n", 100, "--paired-ar-n", 100, "--out", tmp_path / "now.json") == 0
    now = json.loads((tmp_path / "now.json").read_text())
    assert now["segments"] == before["segments"] == 8
    for old, new in zip(before["systems"], now["systems"], strict=True):
        assert old.keys() <= new.keys()
        numbers = {name: value for name, value in old.items() if isinstance(value, int | float | list | dict)}
        numbers = {name: value for name, value in numbers.items() if MADE_IN not in json.dumps(value)}
        assert numbers and {name: new[name] for name in numbers} == numbers


@pytest.fixture
def study(older, monkeypatch):
    """(the plan of the study, its folder), where the paths of the place at which it began are replaced."""
    from fairseq_kd import register
    from fairseq_kd.study.check import open_plan

    register()
    work, spec = older / "study", older / "study.yaml"
    for path in [spec, *work.glob("stages/student-*/request.json"), *work.glob("stages/student-*/train.json")]:
        text = path.read_text().replace(MADE_BY, str(PACKAGE)).replace(MADE_IN, str(older))
        path.write_text(text)
    (prepared,) = work.glob("stages/prepare-*/done.json")
    versions = json.loads(prepared.read_text())["versions"]
    installed(monkeypatch, versions, "study.stages", "study.stage")
    return open_plan(str(spec), work), work


def test_the_students_of_a_study_that_were_trained_with_another_criterion_are_shown_or_made_again(study):
    """Their trainings are continued as before by `train`, which the study calls."""
    from fairseq_kd.study.state import stage_states
    from fairseq_kd.training.run import train

    plan, work = study
    states = stage_states(plan, work)
    found = sorted((plan.stages[name].kind, state) for name, state in states.items())
    students = [("student", "done"), ("student", "waiting")]
    assert found == [("evaluate", "waiting"), ("evaluate", "waiting"), ("prepare", "done"), *students]
    assert plan.about_older.endswith("were made by other versions: format 1 of student, now 2")
    (again,) = (name for name, state in states.items() if name.startswith("student-") and state == "waiting")
    (folder,) = (path for path in work.glob("stages/student-*") if not (path / "done.json").exists())
    assert again != folder.name and again.rpartition("-")[0] == folder.name.rpartition("-")[0]
    log = (folder / "train.log").read_text()
    assert "Loaded checkpoint" not in log
    request = json.loads((folder / "request.json").read_text())
    assert train(folder, request["command"][1:-2], request["inputs"], 60, "label")["updates"] == 60
    assert "Loaded checkpoint" in (folder / "train.log").read_text().removeprefix(log)


def test_a_study_of_other_versions_is_refused_until_the_user_chooses(study, older, monkeypatch):
    from fairseq_kd.artifacts.manifest import library_versions
    from fairseq_kd.study.check import open_plan

    _, work = study
    installed(monkeypatch, library_versions() | {"torch": "1.0"}, "study.stages")
    with pytest.raises(
        KDError, match=r"1 of 5 stages .* were made by other versions: format 1 of student, now 2; torch \S+, now 1\.0"
    ):
        open_plan(str(older / "study.yaml"), work, old_stages=None)
    assert open_plan(str(older / "study.yaml"), work, old_stages="reuse").takes_older


def test_a_training_of_another_request_is_refused(study):
    from fairseq_kd.training.run import train

    _, work = study
    (done,) = (path.parent for path in work.glob("stages/student-*/train.json"))
    request = json.loads((done / "request.json").read_text())
    arguments = request["command"][1:-2]
    record = train(done, arguments, request["inputs"], 60, "label")
    assert record["updates"] == 60
    with pytest.raises(KDError, match="train"):
        train(done, [*arguments, "--dropout", "0.5"], request["inputs"], 60, "label")
    shutil.rmtree(done / "checkpoints")
    with pytest.raises(KDError, match="was removed or changed"):
        train(done, arguments, request["inputs"], 60, "label")
