"""Options that would do nothing in a given combination are errors."""

from fairseq_kd.core.errors import KDError


def refuse(cfg, names, why: str, defaults: dict) -> None:
    """Raise KDError for the first of these options that is not at its default. defaults: name -> value."""
    for name in names:
        value, default = getattr(cfg, name), defaults[name]
        if value != default and str(value) != str(default):
            raise KDError(f"--{name.replace('_', '-')} {value} has no effect {why}")
