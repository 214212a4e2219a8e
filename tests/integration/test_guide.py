"""The commands of docs/teacher.md: from text, fairseq-preprocess and fairseq-train to an exported student."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from docs_helpers import blocks_run_by
from process_helpers import run_kd, run_script

from fairseq_kd.corpus.synthetic import CorpusSpec, draw_corpus
from fairseq_kd.corpus.text import write_lines


def run(command: str, here: Path, user_dir: str) -> subprocess.CompletedProcess:
    """Run a line of the page: commands of fairseq as forks of a process that has loaded them, others by bash."""
    if not command.startswith("fairseq-"):
        environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        words = ["bash", "-o", "pipefail", "-c", command]
        return subprocess.run(words, cwd=here, env=environment, capture_output=True, text=True, timeout=300)
    name, *words = shlex.split(command.replace("$(fairseq-kd user-dir)", user_dir))
    return run_script(name, *words, cwd=here)


def test_the_guide_for_your_own_data_and_teacher(tmp_path):
    pytest.importorskip("ctranslate2")
    (tmp_path / "text").mkdir()
    for subset, pairs in draw_corpus(CorpusSpec(pairs=100, valid=10, test=10)).items():
        for side, lang in enumerate(("de", "en")):
            write_lines(tmp_path / "text" / f"{subset}.{lang}", [pair[side] for pair in pairs])
    user_dir = run_kd("user-dir", cwd=tmp_path).stdout
    assert user_dir == f"{ROOT / 'fairseq_kd'}\n"
    blocks = blocks_run_by("test_the_guide_for_your_own_data_and_teacher")
    for command in [line for block in blocks for line in block.commands()]:
        result = run(command, tmp_path, user_dir.strip())
        assert result.returncode == 0, f"{command}\n{result.stdout[-2000:]}{result.stderr[-2000:]}"
    scores = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in ("plain", "student")}
    references = [pair[1] for pair in draw_corpus(CorpusSpec(pairs=100, valid=10, test=10))["test"]]
    assert all(
        result["references"] == references and result["post_process"] == "subword-nmt" for result in scores.values()
    )
    assert (tmp_path / "student-int8" / "subword" / "joint.codes").is_file()
    assert (tmp_path / "student-seq" / "checkpoint_best.pt").is_file()
