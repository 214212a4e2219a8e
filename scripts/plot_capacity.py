#!/usr/bin/env python3
"""BLEU against parameters, from results of `fairseq-kd evaluate`, as one SVG.

Usage: python scripts/plot_capacity.py OUT.svg --series NAME FILE.json ... [--series ...] [--teacher FILE.json]

Results of a series with the same number of parameters are seeds: the line is their mean, the band ± one standard
deviation. For a study, `fairseq-kd study report` draws this and more.
"""

import argparse
import json
import logging
import math
import sys
from collections import defaultdict
from pathlib import Path

try:
    from fairseq_kd.study.report.draw import Point, Series, draw_lines, picture
except ModuleNotFoundError as error:
    print(f"{error}: run `make quickstart` first, then .venv/bin/python {sys.argv[0]}", file=sys.stderr)
    raise SystemExit(2) from None


def points(files: list[str]) -> list[Point]:
    """One for each number of parameters."""
    scores = defaultdict(list)
    for name in files:
        result = json.loads(Path(name).read_text(encoding="utf-8"))
        scores[result["parameters"]].append(result["bleu"]["score"])
    return [Point(parameters, values) for parameters, values in scores.items()]


def main() -> None:
    """Read, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", metavar="OUT.svg")
    parser.add_argument("--series", action="append", nargs="+", required=True, metavar=("NAME", "FILE.json"))
    parser.add_argument("--teacher", metavar="FILE.json", help="a line across")
    args = parser.parse_args()
    logging.getLogger().setLevel(logging.WARNING)  # fairseq's import asks for everything, and matplotlib says much
    series = [Series(name, points(files), number) for number, (name, *files) in enumerate(args.series)]
    levels = [Series("teacher", points([args.teacher]))] if args.teacher else []

    def paint(axes):
        axes.set_xscale("log")
        sizes = sorted({point.x for one in series for point in one.points})
        named = [size for size, larger in zip(sizes, [*sizes[1:], math.inf], strict=True) if larger > 1.1 * size]
        axes.set_xticks(named, [f"{size / 1000:,.0f}k" for size in named])
        axes.minorticks_off()
        axes.set_xlabel("parameters")
        axes.set_ylabel("BLEU")
        draw_lines(axes, series, levels)

    svg = picture("capacity", paint, height=4.2)
    Path(args.out).write_text(svg.replace("<svg ", '<svg style="background: #fff" ', 1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
