"""The options of `fairseq-kd decode` that choose a hypothesis and drop pairs."""

from fairseq_kd.cli.translation import add_tokenize_argument
from fairseq_kd.sequence.decode_options import FALLBACKS, DecodeOptions
from fairseq_kd.sequence.selection_options import MBR_WEIGHTS, METRICS, SELECTIONS

FILTERS_HELP = (
    "All are off by default. They are applied in this order, and a pair counts for the first one that drops it. The "
    "manifest has the counts, and OUT/SUBSET.dropped.tsv has examples."
)


def add_selection(group, defaults: DecodeOptions) -> None:
    """Declare the options of `SelectionOptions`, and what happens without an answer."""
    group.add_argument(
        "--select",
        choices=SELECTIONS,
        default=defaults.select,
        help="best: the most probable hypothesis of --nbest; closest: to the gold target; mbr: the largest expected "
        "--metric against all hypotheses; model: the most probable by --select-model; qe: the best by --qe (default "
        "%(default)s)",
    )
    group.add_argument(
        "--metric", choices=METRICS, default=defaults.metric, help="for closest and mbr (default %(default)s)"
    )
    add_tokenize_argument(group)
    group.add_argument(
        "--mbr-weights",
        choices=MBR_WEIGHTS,
        help="how much each hypothesis counts as a reference of mbr: equally, or by the teacher's probability (default "
        "uniform)",
    )
    group.add_argument(
        "--select-model",
        metavar="FILE[:FILE]",
        help="for --select model: checkpoint, or an ensemble, in the teacher's direction or in the other one; then it "
        "scores the source given the hypothesis",
    )
    group.add_argument(
        "--qe",
        metavar="MODULE:CALLABLE",
        help="your function for quality estimation: (list of sources, list of hypotheses) -> list of numbers",
    )
    group.add_argument("--post-process", metavar="KIND", help="how subwords become text, if the data-bin does not say")
    group.add_argument(
        "--fallback",
        choices=FALLBACKS,
        help="where the teacher has no answer: write the gold target and count it, drop the sentence and count it, or "
        f"stop (default {defaults.fallback}; for --source-text drop)",
    )


def add_filters(group, defaults: DecodeOptions) -> None:
    """Declare the options of `FilterOptions`."""
    group.add_argument("--drop-empty", action="store_true", help="drop pairs with an empty side")
    group.add_argument(
        "--max-length-ratio", type=float, metavar="R", help="drop pairs with longer side / shorter side above R"
    )
    group.add_argument("--drop-copies", action="store_true", help="drop pairs whose target repeats the source")
    group.add_argument(
        "--max-repeats",
        type=int,
        metavar="N",
        help="drop a target whose most frequent 4-gram of tokens occurs more than N times more often than the most "
        "frequent 4-gram of its source; 1 finds the loops of hallucinations",
    )
    group.add_argument(
        "--max-length-deviation",
        type=float,
        metavar="K",
        help="drop a target whose length is more than K standard deviations from the length that the gold pairs "
        "predict for its source",
    )
    group.add_argument(
        "--opusfilter",
        action="extend",
        nargs="+",
        metavar="CLASS[:JSON]",
        help="drop pairs that these filters of the package OpusFilter reject; JSON: the parameters of the filter",
    )
    group.add_argument("--min-qe", type=float, metavar="X", help="drop pairs whose number by --qe is below X")
    group.add_argument(
        "--round-trip",
        metavar="FILE[:FILE]",
        help="for --min-round-trip-chrf: checkpoint, or an ensemble, that translates the target back",
    )
    group.add_argument(
        "--min-round-trip-chrf",
        type=float,
        metavar="X",
        help="drop pairs whose source and target translated back have a sentence-level chrF2 below X",
    )
    group.add_argument(
        "--drop-unlikely",
        type=float,
        metavar="Q",
        help="drop the share Q of the remaining pairs whose targets have the lowest log-probability per token",
    )
    group.add_argument(
        "--max-same-target", type=int, metavar="N", help="keep the first N remaining pairs with the same target"
    )
