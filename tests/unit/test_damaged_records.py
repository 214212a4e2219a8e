"""Damaged records of trainings, of the quickstart and of stages: one clear error, or made again and said."""

import json
import shutil

import pytest
from faults_helpers import DAMAGES, damage

RECORDS = ("train.json", "request.json")


@pytest.mark.parametrize(("file", "how"), [(file, how) for file in RECORDS for how in DAMAGES])
def test_a_damaged_record_of_a_training(fault_inputs, tmp_path, monkeypatch, file, how):
    from fairseq_kd.core.errors import KDError
    from fairseq_kd.training import run

    def trained(trainings, threads):
        checkpoints = tmp_path / "run" / "checkpoints"
        checkpoints.mkdir(parents=True, exist_ok=True)
        for name in ("last", "best"):
            shutil.copyfile(fault_inputs / "teacher.pt", checkpoints / f"checkpoint_{name}.pt")

    monkeypatch.setattr(run, "_run", trained)
    first = run.train(tmp_path / "run", ["data"], {"data": "x"}, 100, "label")
    assert run.train(tmp_path / "run", ["data"], {"data": "x"}, 100, "label") == first
    damage(tmp_path / "run" / file, how)
    try:
        again = run.train(tmp_path / "run", ["data"], {"data": "x"}, 100, "label")
    except KDError as error:
        assert str(tmp_path / "run" / file) in str(error)
    else:
        assert how == "delete" and again == first


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_result_of_the_quickstart_is_made_again_and_said(tmp_path, capsys, how):
    from fairseq_kd.artifacts.records import write_record
    from fairseq_kd.core.errors import KDError
    from fairseq_kd.quickstart import run

    result, path = dict.fromkeys(run.RESULT_KEYS, 1.5), tmp_path / "result.json"
    write_record(path, result)
    assert run._kept(path) == result
    damage(path, how)
    if how == "folder":
        with pytest.raises(KDError, match="result.json is a folder"):
            run._kept(path)
        return
    assert run._kept(path) is None
    error = capsys.readouterr().err
    assert how == "delete" or f"{path} is damaged" in error


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_end_of_a_stage_makes_it_run_again(tmp_path, how):
    from fairseq_kd.artifacts.hashes import sha256_file
    from fairseq_kd.artifacts.records import write_record
    from fairseq_kd.artifacts.writing import write_json
    from fairseq_kd.core.errors import KDError
    from fairseq_kd.study.state import fingerprint_of, record_of

    write_json(tmp_path / "result.json", {"bleu": 1})
    record = {"fingerprint": sha256_file(tmp_path / "result.json"), "inputs": {}}
    write_record(tmp_path / "done.json", record)
    assert record_of(tmp_path) == record and fingerprint_of(tmp_path) == record["fingerprint"]
    (tmp_path / "result.json").write_text(json.dumps({"bleu": 2}))
    with pytest.raises(KDError, match=r"result\.json was changed since"):
        fingerprint_of(tmp_path)
    damage(tmp_path / "done.json", how)
    assert record_of(tmp_path) is None
