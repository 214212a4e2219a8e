"""Every command of README.md is run: here, or by .ci/run."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from conftest import PACKAGE, ROOT
from process_helpers import run_script

from fairseq_kd.corpus.synthetic import CorpusSpec, draw_corpus
from fairseq_kd.corpus.text import write_lines

README = (ROOT / "README.md").read_text()
BLOCKS = [block.strip().splitlines() for block in re.findall(r"```bash\n(.*?)```", README, re.S)]
(TRANSLATE,) = re.findall(r"```python\n(.*?)```", README, re.S)
MAKE, IN_YOUR_OWN, TEXT_TO_BLEU = BLOCKS


def test_the_make_targets_are_run_by_ci():
    ci = (ROOT / ".ci" / "run").read_text().splitlines()
    assert MAKE == ["make quickstart", "make test"]
    assert all(command in ci for command in MAKE)


def test_the_line_for_your_own_fairseq_train_is_the_one_that_is_run():
    (line,) = IN_YOUR_OWN
    before, after = (shlex.split(part) for part in line.split(" ... "))
    executed = next(shlex.split(command) for command in TEXT_TO_BLEU if "--user-dir" in command)
    assert executed[:2] == before
    assert " ".join(after) in " ".join(executed)


def test_from_text_to_bleu(tmp_path):
    raw = tmp_path / "RAW"
    raw.mkdir()
    for subset, pairs in draw_corpus(CorpusSpec(pairs=300, valid=20, test=20)).items():
        for side, lang in enumerate(("de", "en")):
            write_lines(raw / f"{subset}.{lang}", [pair[side] for pair in pairs])
    (tmp_path / "fairseq_kd").symlink_to(PACKAGE)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    options = {"cwd": tmp_path, "env": environment, "timeout": 300}
    started = set()
    for command in (*map(shlex.split, TEXT_TO_BLEU), [sys.executable, "-c", TRANSLATE]):
        if command[0] in started:
            result = run_script(*command, **options)
        else:  # the first time as a shell starts it
            result = subprocess.run(command, capture_output=True, text=True, **options)
            started.add(command[0])
        assert result.returncode == 0, f"{command}\n{result.stdout[-2000:]}{result.stderr[-2000:]}"
    made = ("teacher.json", "student.json", "calibration.svg", "comparison.json")
    assert all((tmp_path / name).is_file() for name in made)
