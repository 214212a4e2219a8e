"""Studies from Python: a spec as a dictionary becomes a file, and the file becomes a plan."""

from pathlib import Path

import yaml

from fairseq_kd.artifacts.writing import write_text
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.public import errors_name_arguments
from fairseq_kd.study.check import open_plan
from fairseq_kd.study.plan import Plan


def write_spec(spec: dict, path) -> Path:
    """Write a spec as the YAML file `path`, which is replaced, and return the path.

    The file holds the same keys, in the same order; `plan_study` checks them. Raises KDError for a value that YAML has
    no form for, and when the file cannot be written.
    """
    try:
        text = yaml.dump(spec, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    except yaml.YAMLError as error:
        raise KDError(f"spec {path} cannot be written ({error}): use text, numbers, lists and dictionaries") from error
    write_text(Path(path), text)
    return Path(path)


class _Dumper(yaml.SafeDumper):
    """Writes each value out where it occurs, without anchors."""

    def ignore_aliases(self, data) -> bool:
        """Always: an anchor would mean nothing to a reader."""
        return True


@errors_name_arguments(work="out")
def plan_study(spec, work, *, recipe: str | None = None, raw=None) -> Plan:
    """Read a spec, check every option of it, and plan its cells and stages; nothing is written.

    spec: a YAML file, or the name of a shipped spec. work: the folder of the study. recipe: name or file, in place of
    the recipe of the spec. raw: folder of the raw files.
    Raises KDError that names the key at fault and the nearest valid one.
    """
    return open_plan(spec, Path(work).absolute(), recipe, raw)
