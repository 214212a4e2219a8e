"""A consolidation with real stages: two parts, their local models, the mean of these, and a student of both."""

import json

import torch
from distilled_helpers import targets_of
from study_helpers import SHORT, completing, given, spec_on, student

from fairseq_kd.cli.main import main
from fairseq_kd.inference.checkpoint import read_checkpoint
from fairseq_kd.study.check import open_plan
from fairseq_kd.study.show import write_results
from fairseq_kd.study.stages import BEST

RATE, UPDATES = 0.01, 2


def weights(path) -> dict:
    return {name: value for name, value in read_checkpoint(path)["model"].items() if value.is_floating_point()}


def farthest(one: dict, other: dict) -> float:
    """The largest difference of a weight."""
    return max((one[name] - other[name]).abs().max().item() for name in one)


def test_a_consolidated_student_its_start_its_targets_and_the_mean_of_the_models(
    data_bin, teacher, tmp_path, monkeypatch
):
    work = tmp_path / "work"
    factors = {"method": ["word", "soup"], "teachers": {"all": "all"}, "init": ["best-score"], "transfer": ["union"]}
    sections = {"partition": {"parts": 2, "by": "length", "no-plot": True}, "select": SHORT, "decode": SHORT}
    sections |= {"evaluate": SHORT | {"confidence-n": 0}, "cache": {"top-k": 4}, "teacher": None}
    plan = open_plan(spec_on(data_bin, teacher, tmp_path, factors=factors, **sections), work)
    completing(monkeypatch)(plan, work)
    results = write_results(plan, work)
    assert [cell["state"] for cell in results["cells"]] == ["done", "done"] and len(results["teachers"]) == 3

    def folder(kind: str):
        return [work / "stages" / stage.name for stage in plan.stages.values() if stage.kind == kind]

    consolidated = student(plan, method="word")
    local = [path / BEST for path in folder("student") if path.name != consolidated.name]
    models = [weights(path) for path in local]
    (mean,) = folder("average")
    found = weights(mean / "model.pt")
    assert farthest(*models) > 1e-3  # the parts differ, and so do their models
    for name, value in found.items():  # by float64, rounded once
        torch.testing.assert_close(value, ((models[0][name].double() + models[1][name]) / 2).float(), rtol=0, atol=0)

    (chosen,) = folder("select")
    selection = json.loads((chosen / "selection" / "selection.json").read_text())
    assert selection["chosen"] == max(selection["checkpoints"], key=lambda row: row["bleu"])["checkpoint"]
    begun = weights(chosen / "teacher.pt")
    assert min(farthest(begun, model) for model in models) == 0
    log = (work / "stages" / consolidated.name / "train.log").read_text()
    assert f"loading pretrained model from {chosen}/teacher.pt" in log
    # an update of Adam with a constant rate moves a weight by at most the rate in its first updates
    assert 0 < farthest(weights(work / "stages" / consolidated.name / BEST), begun) < 1.05 * UPDATES * RATE

    (decoded,) = folder("decode")
    assert consolidated.command[1] == f"@/stages/{decoded.name}/data-bin"
    targets, gold = targets_of(decoded / "data-bin"), targets_of(data_bin)
    assert len(targets) == len(gold) and not set(targets) & set(gold)
    assert given(plan.stages[decoded.name])["fallback"] == "drop"


def test_targets_on_the_union_are_the_same_whatever_the_gold_targets_are(data_bin, distilled, teacher, tmp_path):
    """`distilled` has the sources of `data_bin` and other targets; the words are those of a stage with union."""
    assert targets_of(data_bin) != targets_of(distilled)
    found = []
    for number, data in enumerate((data_bin, distilled)):
        out = tmp_path / f"out{number}"
        words = ["--teacher", str(teacher), "--fallback", "drop", "--strategy", "greedy", "--max-len-a", "1"]
        assert main(["decode", str(data), *words, "--max-len-b", "5", "--cpu", "--out", str(out)]) == 0
        found.append(targets_of(out))
    assert found[0] == found[1]
