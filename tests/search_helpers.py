"""Specs of searches with tiny models, as YAML in a temporary folder."""

import yaml
from study_helpers import SMOKE

SHORT = {"max-len-a": 1, "max-len-b": 2, "beam": 1}
TINY = {name: SMOKE[name] for name in ("recipe", "common", "teacher", "student")}
TINY |= {"evaluate": SHORT, "budget": {"teacher": 4, "student": 3}}


def write_search(folder, search, **changes):
    """A spec with the section `search` and tiny models; None removes a section."""
    content = TINY | changes | {"search": search}
    path = folder / "mine.yaml"
    content = {name: value for name, value in content.items() if value is not None}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path
