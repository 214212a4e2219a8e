"""The commands of README.md and of the tutorial."""

import contextlib
import os
import shlex
import subprocess
import sys
from pathlib import Path

from docs_helpers import blocks_run_by, with_user_dir
from process_helpers import run_script

from fairseq_kd.cli.main import main
from fairseq_kd.corpus.synthetic import CorpusSpec, draw_corpus
from fairseq_kd.corpus.text import write_lines


def test_the_line_for_your_own_fairseq_train_is_the_one_that_is_run():
    (block,) = blocks_run_by("test_the_line_for_your_own_fairseq_train_is_the_one_that_is_run")
    (line,) = with_user_dir(block.commands())
    before, after = (shlex.split(part) for part in line.split(" ... "))
    commands, _ = from_text_to_bleu()
    executed = next(shlex.split(command) for command in commands if "--user-dir" in command)
    assert executed[:2] == before
    assert " ".join(after) in " ".join(executed)


def from_text_to_bleu() -> tuple[list[str], str]:
    """The commands of docs/tutorial.md, and the program of docs/export.md that uses what they make."""
    blocks = {block.language: block for block in blocks_run_by("test_from_text_to_bleu")}
    return with_user_dir(blocks["bash"].commands()), blocks["python"].text


def test_doctor_and_help(capsys):
    (block,) = blocks_run_by("test_doctor_and_help")
    for command in block.commands():
        with contextlib.suppress(SystemExit):  # --help
            assert main(shlex.split(command)[1:]) == 0
    assert "--user-dir" in (out := capsys.readouterr().out) and "usage: fairseq-kd" in out


def test_from_text_to_bleu(tmp_path):
    raw = tmp_path / "RAW"
    raw.mkdir()
    for subset, pairs in draw_corpus(CorpusSpec(pairs=300, valid=20, test=20)).items():
        for side, lang in enumerate(("de", "en")):
            write_lines(raw / f"{subset}.{lang}", [pair[side] for pair in pairs])
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    commands, translate = from_text_to_bleu()
    options = {"cwd": tmp_path, "env": environment, "timeout": 300}
    started = {"fairseq-train"}  # the start of fairseq with the plugin is tested by test_install.py
    for command in (*map(shlex.split, commands), [sys.executable, "-c", translate]):
        if command[0] in started:
            result = run_script(*command, **options)
        else:  # the first time as a shell starts it
            result = subprocess.run(command, capture_output=True, text=True, **options)
            started.add(command[0])
        assert result.returncode == 0, f"{command}\n{result.stdout[-2000:]}{result.stderr[-2000:]}"
    made = ("teacher.json", "student.json", "calibration.svg", "comparison.json")
    assert all((tmp_path / name).is_file() for name in made)
