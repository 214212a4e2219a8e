"""scripts/plot_capacity.py: results as a picture."""

import json
import subprocess
import sys

from conftest import ROOT


def test_results_become_a_picture_with_one_tick_a_size(tmp_path):
    files = []
    for number, (parameters, score) in enumerate([(1000, 10.0), (1000, 12.0), (2000, 20.0)]):
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(json.dumps({"parameters": parameters, "bleu": {"score": score}}))
    words = [sys.executable, str(ROOT / "scripts" / "plot_capacity.py"), str(tmp_path / "p.svg")]
    words += ["--series", "kd_word", *map(str, files), "--teacher", str(files[-1])]
    result = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    picture = (tmp_path / "p.svg").read_text()
    assert all(text in picture for text in (">1k<", ">2k<", ">kd_word<", ">teacher<", ">BLEU<"))
