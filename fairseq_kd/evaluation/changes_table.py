"""The entry "changes" as text: a table, one line about the threshold, and examples."""

from fairseq_kd.evaluation.changes import CLASSES, INTERVALS, NET

ALL = "all"
WORDS = ("source", "reference", "before", "after")


def changes_table(entry: dict) -> list[str]:
    """The lines that `evaluate --compare-to` and `compare --segments` print."""
    after = f"{entry['name']} against {entry['baseline']}" if "name" in entry else f"against {entry['before']['file']}"
    runs = len(entry["seeds"])
    several = f", means over {runs} seeds" if runs > 1 else ""
    groups = [(ALL, entry["overall"]), *((part["part"], part) for part in entry.get("parts", []))]
    width = max(len("part"), *(len(label) for label, _ in groups)) + 2
    lines = [
        f"segments {after}{several}: gained or lost by more than {entry['threshold']:g} points of sentence chrF",
        f"{'part':<{width}}{'segments':<10}{'number':>9}{'share':>9}{'95 % interval':>20}"
        f"{'chrF before':>13}{'after':>8}",
    ]
    for label, group in groups:
        lines += _group(label, group, width)
    return [
        *lines,
        f"with a threshold of {'; of '.join(map(_at_threshold, entry['sensitivity']))}",
        f"95 % intervals {INTERVALS[entry['interval']]}",
        entry["signature"],
        *(line for example in entry.get("examples", []) for line in _example(example, runs)),
    ]


def _group(label: str, group: dict, width: int) -> list[str]:
    means = _means(group["chrf_before"], group["chrf_after"])
    lines = [f"{label:<{width}}{'all':<10}{group['segments']:>9,}{'':>29}{means}"]
    for name in CLASSES:
        found = group[name]
        counts = found["counts"]
        number = f"{counts[0]:,}" if len(counts) == 1 else f"{sum(counts) / len(counts):,.1f}"
        row = f"{'':<{width}}{name:<10}{number:>9}{percent(found['share']):>9}{interval_text(found['interval']):>20}"
        lines.append(row + _means(found["chrf_before"], found["chrf_after"]))
    net = group[NET]
    return [
        *lines,
        f"{'':<{width}}{NET:<10}{'':>9}{_signed(net['share']):>9}{interval_text(net['interval'], True):>20}",
    ]


def percent(share: float, signed: bool = False) -> str:
    """A share as text."""
    return f"{100 * share:{'+' if signed else ''}.1f} %"


def interval_text(interval: list | None, signed: bool = False) -> str:
    """An interval of shares as text; "-" where all seeds have the same share."""
    if interval is None:
        return "-"
    low, high = (percent(end, signed).removesuffix(" %") for end in interval)
    return f"{low} to {high} %"


def _signed(share: float) -> str:
    return percent(share, signed=True)


def _means(before: float | None, after: float | None) -> str:
    first, second = ("-" if value is None else f"{value:.2f}" for value in (before, after))
    return f"{first:>13}{second:>8}"


def _at_threshold(found: dict) -> str:
    shares = ", ".join(f"{name} {percent(found[name])}" for name in CLASSES)
    return f"{found['threshold']:g} points: {shares}, {NET} {_signed(found[NET])}"


def _example(example: dict, runs: int) -> list[str]:
    about = f"segment {example['segment']}"
    about += f", part {example['part']}" if "part" in example else ""
    about += f", seed {example['seed']}" if runs > 1 else ""
    before, after = example["chrf_before"], example["chrf_after"]
    lines = [f"{about}: chrF {before:.2f} before, {after:.2f} after ({after - before:+.2f})"]
    return lines + [f"    {name:<11}{example[name]}" for name in WORDS if name in example]
