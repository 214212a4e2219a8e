"""The package installed by pip, away from the clone."""

import os
import shutil
import subprocess
import sys

from conftest import ROOT, TINY_MODEL


def test_an_installed_package_works_as_user_dir_and_brings_its_configs(tmp_path, data_bin, teacher):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("fairseq_kd", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    target = tmp_path / "site-packages"
    words = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    result = subprocess.run(
        [sys.executable, *words, "--target", target, source], capture_output=True, text=True, timeout=180
    )
    assert result.returncode == 0, result.stderr[-2000:]
    for name in ("Snakefile", "report/report.html.j2", "report/report.md.j2", "report/style.css"):
        assert (target / "fairseq_kd" / "study" / name).is_file(), name
    environment = os.environ | {"PYTHONPATH": str(target)}
    words = [sys.executable, "-m", "fairseq_kd.cli.main", "user-dir"]
    printed = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True).stdout
    assert printed == f"{target / 'fairseq_kd'}\n"
    train = [sys.executable, "-m", "fairseq_cli.train", data_bin, *TINY_MODEL, "--user-dir", printed.strip()]
    train += ["--criterion", "kd_word", "--teacher", teacher, "--max-update", "2", "--save-dir", tmp_path / "student"]
    result = subprocess.run(
        [str(word) for word in train], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=180
    )
    assert result.returncode == 0, result.stderr[-2000:]
    code = "import fairseq_kd.quickstart.recipe as r; print(r.__file__, r.available_recipes())"
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert str(target) in result.stdout and "'wmt14.en-fr'" in result.stdout and "'synthetic'" in result.stdout, (
        result.stderr
    )
