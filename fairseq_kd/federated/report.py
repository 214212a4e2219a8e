"""The report of a run: a table per round, the totals, the target, and a plot of BLEU by round."""

from pathlib import Path

from fairseq_kd.artifacts.writing import write_text
from fairseq_kd.core.picture import COLOURS, picture, standing_alone

PLOT = "bleu.svg"


def write_report(result: dict, out) -> str:
    """Write the plot OUT/bleu.svg where a round has a score and matplotlib is installed; return the table as text."""
    lines = table(result)
    scored = [record for record in result["rounds"] if record["bleu"] is not None]
    if not scored:
        return "\n".join(lines)
    try:
        svg = draw(scored, result["target"])
    except ImportError:
        return "\n".join([*lines, "", "for a plot install matplotlib: pip install 'fairseq_kd[report]'"])
    write_text(Path(out) / PLOT, svg)
    return "\n".join([*lines, "", f"plot:   {Path(out) / PLOT}"])


def table(result: dict) -> list[str]:
    """The lines of the table. Bytes are the payload of Flower's ArrayRecords."""
    head = f"{'round':>5}{'clients':>9}{'failed':>8}{'updates':>9}{'sent MB':>10}{'received MB':>13}{'s':>8}{'BLEU':>8}"
    lines = [head, "-" * len(head)]
    for record in result["rounds"]:
        bleu = "" if record["bleu"] is None else f"{record['bleu']:.2f}"
        lines.append(
            f"{record['round']:>5}{len(record['clients']):>9}{len(record['failed']):>8}{record['updates']:>9}"
            f"{record['bytes_sent'] / 1e6:>10.2f}{record['bytes_received'] / 1e6:>13.2f}"
            f"{record['seconds']:>8.0f}{bleu:>8}"
        )
    total = result["total"]
    lines += ["", f"total: {total['bytes'] / 1e6:.2f} MB of weights in both directions, {total['updates']} updates of "
              f"all clients and the server, {total['seconds']:.0f} s"]  # fmt: skip
    if (target := result["target"]) is not None:
        lines.append(_reached(target))
    return lines


def _reached(target: dict) -> str:
    if (found := target["reached"]) is None:
        return f"target: BLEU {target['bleu']:.2f} was not reached"
    return (
        f"target: BLEU {target['bleu']:.2f} was reached in round {found['round']}, after "
        f"{found['bytes'] / 1e6:.2f} MB, {found['updates']} updates and {found['seconds']:.0f} s"
    )


def draw(records: list[dict], target: dict | None) -> str:
    """BLEU by round as SVG. The same input gives the same text. Raises ImportError without matplotlib."""

    def paint(axes):
        numbers = [record["round"] for record in records]
        axes.plot(numbers, [record["bleu"] for record in records], marker="o", markersize=4, color=COLOURS[0])
        if target is not None:
            axes.axhline(target["bleu"], linestyle="--", color=COLOURS[1], label=f"target {target['bleu']:.2f}")
        axes.set(xlabel="round", ylabel="BLEU of the global model")
        axes.xaxis.get_major_locator().set_params(integer=True)

    return standing_alone(picture("bleu", paint))
