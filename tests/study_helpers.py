"""Specs of studies with tiny models, as YAML in a temporary folder."""

import copy

import yaml
from conftest import ROOT

SMOKE = yaml.safe_load((ROOT / "configs" / "studies" / "smoke.yaml").read_text())


def write_spec(folder, **changes):
    """The spec `smoke` with other sections; None takes one out."""
    content = {name: value for name, value in (copy.deepcopy(SMOKE) | changes).items() if value is not None}
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path
