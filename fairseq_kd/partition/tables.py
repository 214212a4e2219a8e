"""The differences between parts as tables: aligned for a terminal, and as Markdown."""

MEANS = {
    "mean_jsd": "Jensen-Shannon divergence, bits",
    "mean_overlap": "overlap of types",
    "mean_rare_overlap": "overlap of rare types",
}
MATRICES = {
    "jsd": "Jensen-Shannon divergence of unigrams, bits",
    "overlap": "share of the types of the row that the column has",
    "rare_overlap": "share of the rare types of the row that the column has",
}
Rows = list[list[str]]


def size_table(found: dict) -> Rows:
    """One row per part, and one for the whole; a cell has the values of source and target.

    found: of `differences.differences`.
    """
    names = ("tokens", "mean length", "types", "JSD to all, bits")
    rows = [["part", "sentences", *names]]
    for row in [*found["parts"], found["all"]]:
        sides = [row[side] for side in found["sides"]]
        cells = [
            [f"{side['tokens']:,}", f"{side['mean_length']:.2f}", f"{side['types']:,}", _number(side["jsd_to_all"])]
            for side in sides
        ]
        both = [" / ".join(values) for values in zip(*cells, strict=True)]
        rows.append([str(row.get("part", "all")), f"{row['sentences']:,}", *both])
    return rows


def mean_table(found: dict) -> Rows:
    """The means over pairs of parts, beside those of random parts of the same sizes."""
    rows = [["mean over pairs of parts", *(f"{side}{more}" for side in found["sides"] for more in ("", ", random"))]]
    for name, words in MEANS.items():
        values = [(side[name], side["chance"][name]) for side in found["sides"].values()]
        rows.append([words, *(_number(value) for pair in values for value in pair)])
    return rows


def group_table(found: dict) -> Rows:
    """How many sentences of each group are in each part."""
    head = [*(f"part {row['part']}" for row in found["parts"]), "all"]
    rows = [["group", *head]]
    for name, counts in zip(found["groups"], found["sentences_of_groups"], strict=True):
        rows.append([name, *(f"{count:,}" for count in [*counts, sum(counts)])])
    return rows


def plain(rows: Rows) -> str:
    """Rows with aligned columns, the first to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if at else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def markdown(rows: Rows) -> str:
    """Rows as a table of Markdown."""
    head, *others = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join([head, f"|---|{'---:|' * (len(rows[0]) - 1)}", *others])


def page(found: dict, title: str) -> str:
    """The content of differences.md."""
    unit = found["unit"]
    lines = [
        f"# {title}",
        "",
        f"A type is one of the different {unit}. A rare type is {found['rare']}. Lengths are in tokens. 'a / b' are "
        "the values of source and target. 'random' is one random division into parts of the same sizes.",
        "",
        markdown(size_table(found)),
        "",
        markdown(mean_table(found)),
    ]
    if "groups" in found:
        lines += ["", "## Sentences of each group", "", markdown(group_table(found))]
    for side, matrices in found["sides"].items():
        for name, words in MATRICES.items():
            numbers = [str(row["part"]) for row in found["parts"]]
            rows = [["part", *numbers]]
            rows += [[n, *map(_number, row)] for n, row in zip(numbers, matrices[name], strict=True)]
            lines += ["", f"## {side.capitalize()}: {words}", "", markdown(rows)]
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
