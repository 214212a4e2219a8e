"""Pictures as SVG, drawn with matplotlib. The same input gives the same bytes.

Text and axes have the colour of the page's text. The colours of series are safe for colour-blind readers (Okabe & Ito
2008); orange and sky blue are darker than in the source. All colours have a contrast of 3 to 1 on a white page and on a
dark one.
"""

import io
import re
import textwrap

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B87F00", "#3A93C8")
INK, FAINT = "#010203", "#040506"  # `_svg` replaces them by the colour of the page's text
# A picture outside of the page has a light or dark background: its text follows the reader's setting.
STYLE = "<style>svg { color: #1b1f24 } @media (prefers-color-scheme: dark) { svg { color: #e6e8ea } }</style>"
LONG_LABEL, WIDEST_LABEL = 20, 40  # characters; from the first on one legend entry per line, from the second on folded
WIDTH, HEIGHT = 4.7, 3.7  # inches of 72 px: about the width of a phone, so that text is readable there
SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fairseq_kd",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}


def picture(name: str, paint, height: float = HEIGHT, panels: int = 1) -> str:
    """SVG of what `paint(axes)` draws. name: prefix of all ids in the SVG.

    panels: number of axes, one below the other. Two or more are given to `paint` as an array.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.subplots(panels)
        paint(axes)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        if handles:
            labels = [textwrap.fill(label, WIDEST_LABEL) for label in labels]
            columns = 2 if max(map(len, labels)) < LONG_LABEL else 1
            figure.legend(handles, labels, loc="outside lower center", ncols=columns)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _svg(text.getvalue(), name)


def _svg(text: str, name: str) -> str:
    """Make an SVG fit for a page with other SVGs: no prolog, ids with the prefix `name`, colours of the page."""
    text = text[text.index("<svg") :]
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(url\(|href=")#', rf"\1#{name}-", text)
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.S)
    text = text.replace(FAINT, "currentColor; stroke-opacity: 0.2").replace(INK, "currentColor")
    return re.sub(r' width="[\d.]+pt" height="[\d.]+pt"| height="[\d.]+pt"| width="[\d.]+pt"', "", text).strip()


def renamed(svg: str, old: str, new: str) -> str:
    """A picture with another prefix of its ids."""
    return re.sub(rf'(\bid="|url\(#|href="#){re.escape(old)}-', rf"\1{new}-", svg)


def standing_alone(svg: str) -> str:
    """A picture as the content of its own file."""
    start = svg.index(">") + 1
    return f"{svg[:start]}{STYLE}{svg[start:]}\n"
