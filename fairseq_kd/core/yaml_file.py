"""YAML files: no key may stand twice, and an unknown key is refused with the nearest valid one."""

import difflib
from pathlib import Path

import yaml

from fairseq_kd.core.errors import KDError


class _Loader(yaml.SafeLoader):
    """Refuses a key that occurs twice in one mapping. PyYAML silently takes the last value."""

    def compose_mapping_node(self, anchor):
        """One mapping, before its merge keys are resolved. Raises YAMLError for a key that is given twice."""
        node, seen = super().compose_mapping_node(anchor), set()
        for key, _ in node.value:
            if (name := (key.tag, str(key.value))) in seen:
                line = key.start_mark.line + 1
                raise yaml.YAMLError(
                    f"line {line} gives {key.value!r} again, and only the last would count; remove one"
                )
            seen.add(name)
        return node


def read_yaml(path, what: str):
    """The content of the file.

    what: a word for it in messages, such as "spec". Raises KDError when it cannot be read.
    """
    try:
        return yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except (
        OSError,
        ValueError,
        yaml.YAMLError,
    ) as error:  # ValueError: not UTF-8, or an invalid date such as 2020-13-01
        raise KDError(f"{what} {path} cannot be read: {' '.join(str(error).split())}") from error


def nearest(name, valid) -> str:
    """The entry of `valid`, which is not empty, that is spelt most like `name`."""
    return difflib.get_close_matches(str(name), [str(entry) for entry in valid], n=1, cutoff=0.0)[0]


def check_keys(path, where: str, found, valid, required=()) -> None:
    """Check the keys of the section `where` of the file `path`.

    Raises KDError when the section is not a mapping, for an unknown key (with the nearest valid one), and for a missing
    key.
    """
    if not isinstance(found, dict):
        what = "nothing" if found is None else type(found).__name__
        raise KDError(f"{path}: {where} must be a mapping, found {what}")
    for key in found:
        if key not in valid:
            raise KDError(f"{path}: unknown key {key!r} in {where}; the nearest valid one is {nearest(key, valid)!r}")
    for key in required:
        if key not in found:
            raise KDError(f"{path}: {where} lacks {key!r}")


def check_text(path, where: str, value) -> None:
    """Raises KDError unless `value` is text; YAML reads `no` as false."""
    if not isinstance(value, str | Path) or not str(value):
        raise KDError(f"{path}: {where} must be text, found {value!r}: put it in quotes")


def is_number(value) -> bool:
    """Whether `value` is a number; true and false, which Python counts as numbers, are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)
