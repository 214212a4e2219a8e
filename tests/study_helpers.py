"""Specs of studies with tiny models, as YAML in a temporary folder; studies run as a user runs them."""

import copy
import os
from itertools import pairwise
from pathlib import Path

import yaml
from conftest import ROOT
from process_helpers import Process

SMOKE = yaml.safe_load((ROOT / "configs" / "studies" / "smoke.yaml").read_text())
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


def start(*words, **options):
    return Process("-m", "fairseq_kd.cli.main", "study", *words, env=ENVIRONMENT, **options)


def processes_of(work) -> list[str]:
    """Command lines of the processes that work in a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            where = os.readlink(path.parent / "cwd")
        except OSError:
            continue
        if str(work) in line or where == str(work):
            found.append(line)
    return found


def write_spec(folder, **changes):
    """The spec `smoke` with other sections; None removes a section."""
    content = {name: value for name, value in (copy.deepcopy(SMOKE) | changes).items() if value is not None}
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


MODEL = {
    **{"arch": "transformer", "encoder-layers": 1, "decoder-layers": 1, "encoder-embed-dim": 16},
    **{"decoder-embed-dim": 16, "encoder-ffn-embed-dim": 32, "decoder-ffn-embed-dim": 32},
    **{"encoder-attention-heads": 2, "decoder-attention-heads": 2, "share-all-embeddings": True},
}
SHORT = {"max-len-a": 1, "max-len-b": 5}
LSTM = {"arch": "lstm", "decoder-out-embed-dim": 16}
CONVOLUTION = {"arch": "fconv", "encoder-layers": "[(16, 3)]", "decoder-layers": "[(16, 3)]"}


def spec_on(on, by, folder, **changes):
    """A spec on what exists; None removes a section."""
    content = {
        "data": {"data-bin": str(on)},
        "teacher": {"checkpoint": str(by)},
        "common": MODEL | {"optimizer": "adam", "lr": 0.01, "max-tokens": 400},
        "budget": {"student": 2},
        "evaluate": SHORT,
        "factors": {"method": ["word"]},
    }
    content = {name: value for name, value in (content | changes).items() if value is not None}
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def completing(monkeypatch):
    """A function that runs the stages of a plan: a training in a fork, other commands in this process."""
    from fairseq_kd.artifacts.records import read_record, write_record
    from fairseq_kd.cli.main import main
    from fairseq_kd.study import stage as study_stage
    from fairseq_kd.study.plan import PLAN_NAME
    from fairseq_kd.training import running

    monkeypatch.setattr(running, "start_python", lambda words, output, threads: Process("-m", *words, output=output))
    monkeypatch.setattr(study_stage, "run_python", lambda words: main(words[1:]))

    def run(plan, work):
        write_record(work / PLAN_NAME, plan.as_dict())
        planned = read_record(work / PLAN_NAME, "")
        for name, stage in planned["stages"].items():
            folder = work / "stages" / name
            folder.mkdir(parents=True, exist_ok=True)
            study_stage._complete(work, planned, stage, folder)

    return run


def given(stage) -> dict:
    """Option -> the word after it."""
    return {word[2:]: after for word, after in pairwise([*stage.command, "--"]) if word.startswith("--")}


def student(plan, **factors):
    """The stage of the training of the only cell with these values of factors."""
    (cell,) = (one for one in plan.cells.values() if one["factors"].items() >= factors.items())
    return plan.stages[cell["student"]]
