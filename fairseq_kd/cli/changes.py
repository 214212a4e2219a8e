"""The options of `evaluate --compare-to` and `compare --segments`: which segments are gained and lost."""

from fairseq_kd.core.errors import KDError
from fairseq_kd.evaluation.changes import THRESHOLD, ChangeOptions
from fairseq_kd.evaluation.changes_plot import check_plot

OPTIONS = ("parts", "change_threshold", "changes_plot", "show", "sources")


def add_change_arguments(group, needs: str) -> None:
    """Declare the options. needs: the option without which they have no effect."""
    group.add_argument("--parts", metavar="FILE", help=f"with {needs}: one label per segment; shares per part too")
    group.add_argument(
        "--change-threshold",
        type=float,
        metavar="POINTS",
        help="smaller changes of a segment's chrF count as kept; about 5 points are one wrong word among 30 (default "
        f"{THRESHOLD:g})",
    )
    group.add_argument("--changes-plot", metavar="FILE.svg", help="draw the shares with their intervals, by matplotlib")
    group.add_argument("--show", type=int, metavar="N", help="print the N segments whose chrF changed most")


def change_options(args, needs: str) -> ChangeOptions | None:
    """The checked options; None without `needs`, the option with two dashes. Raises KDError as `ChangeOptions` does."""
    given = {name: getattr(args, name) for name in OPTIONS if getattr(args, name, None) is not None}
    if getattr(args, needs.removeprefix("--").replace("-", "_")) in (None, False):
        if given:
            raise KDError(f"--{next(iter(given)).replace('_', '-')} has no effect without {needs}")
        return None
    if "sources" in given and not given.get("show"):
        raise KDError("--sources has no effect without --show")
    if (plot := given.pop("changes_plot", None)) is not None:
        check_plot(plot)
    threshold = given.pop("change_threshold", THRESHOLD)
    return ChangeOptions(threshold, **given)
