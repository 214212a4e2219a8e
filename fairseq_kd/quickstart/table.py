"""The table of the quickstart."""

from statistics import mean

from fairseq_kd.quickstart.run import DISTILLED, PLAIN


def format_table(rows: list[dict]) -> str:
    """The table as plain text: one line per model and seed, and the difference between the means of the students."""
    lines = [_line("model", "seed", "parameters", "BLEU", "chrF2", "training s", "decoding s"), ""]
    for row in rows:
        result = row["result"]
        lines.append(
            _line(
                row["model"],
                row["seed"],
                f"{result['parameters']:,}",
                f"{result['bleu']['score']:.2f}",
                f"{result['chrf']['score']:.2f}",
                f"{row['training']['seconds']:.0f}",
                f"{result['seconds']:.1f}",
            )
        )
    lines[1] = "-" * max(map(len, lines))
    plain, distilled = (
        [row["result"]["bleu"]["score"] for row in rows if row["model"] == model] for model in (PLAIN, DISTILLED)
    )
    seeds = f"mean of {len(plain)} seeds" if len(plain) > 1 else "one seed"
    lines += [
        "",
        f"distilled - plain: {mean(distilled) - mean(plain):+.2f} BLEU "
        f"({mean(distilled):.2f} against {mean(plain):.2f}, {seeds})",
    ]
    return "\n".join(lines)


def _line(model, seed, parameters, bleu, chrf, training, decoding) -> str:
    return f"{model:<24}{seed:>4}{parameters:>12}{bleu:>8}{chrf:>8}{training:>12}{decoding:>12}"
