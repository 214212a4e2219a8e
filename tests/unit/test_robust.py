"""configs/kd/robust.yaml: what README.md tells a newcomer to begin with."""

import yaml
from conftest import ROOT
from helpers import parse

from fairseq_kd.criterions.config import DEFAULTS, check_options
from fairseq_kd.evaluation.select_teacher import CHOICES

ROBUST = yaml.safe_load((ROOT / "configs" / "kd" / "robust.yaml").read_text())


def test_kd_word_accepts_every_option_and_they_are_its_defaults(data_bin):
    words = [word for name, value in ROBUST["kd"].items() for word in (f"--{name}", value)]
    cfg = parse(data_bin, "--criterion", "kd_word", "--teacher", "teacher.pt", *words).criterion
    check_options(cfg)
    for name, value in ROBUST["kd"].items():
        assert getattr(cfg, name.replace("-", "_")) == value == DEFAULTS[name.replace("-", "_")]


def test_select_teacher_has_the_choice():
    assert ROBUST["select-teacher"].keys() == {"by"} and ROBUST["select-teacher"]["by"] in CHOICES
