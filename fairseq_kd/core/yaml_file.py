"""YAML files in which every key is unique."""

from pathlib import Path

import yaml

from fairseq_kd.core.errors import KDError


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice, of which PyYAML silently takes the last."""

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
    """The content of the file. what: a word for it in messages, such as "spec". Raises KDError if it cannot be read."""
    try:
        return yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except (
        OSError,
        ValueError,
        yaml.YAMLError,
    ) as error:  # ValueError: not UTF-8, or an invalid date such as 2020-13-01
        raise KDError(f"{what} {path} cannot be read: {' '.join(str(error).split())}") from error
