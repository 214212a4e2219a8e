"""YAML files in which no key stands twice."""

from pathlib import Path

import yaml

from fairseq_kd.core.errors import KDError


class _Loader(yaml.SafeLoader):
    """Of a key that stands twice PyYAML takes the last without a word."""

    def compose_mapping_node(self, anchor):
        """One mapping, before its merge keys are resolved. Raises YAMLError for a key that stands twice."""
        node, seen = super().compose_mapping_node(anchor), set()
        for key, _ in node.value:
            if (name := (key.tag, str(key.value))) in seen:
                line = key.start_mark.line + 1
                raise yaml.YAMLError(
                    f"line {line} gives {key.value!r} again, and only the last would count; take one out"
                )
            seen.add(name)
        return node


def read_yaml(path, what: str):
    """What is in the file. what: a word for it in messages, such as "spec". Raises KDError when it cannot be read."""
    try:
        return yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: no UTF-8, or no date, such as 2020-13-01
        raise KDError(f"{what} {path} cannot be read: {' '.join(str(error).split())}") from error
