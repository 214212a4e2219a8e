"""A reliability diagram as a picture, by matplotlib."""

import importlib.util
from pathlib import Path

from fairseq_kd.corpus.manifest import ensure_writable_folder, file_in_progress
from fairseq_kd.errors import KDError

SUFFIXES = (".png", ".svg", ".pdf")


def check_diagram(path) -> None:
    """Raises KDError when the picture could not be written: before the work, not after it."""
    if Path(path).suffix not in SUFFIXES:
        raise KDError(f"--diagram {path}: the name must end with {', '.join(SUFFIXES)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise KDError("--diagram needs matplotlib: pip install 'fairseq_kd[report]'")
    ensure_writable_folder(Path(path).absolute().parent)


def draw_reliability(calibration: dict, path) -> None:
    """Accuracy over confidence of each bin, beside the diagonal of a calibrated model.

    calibration: what `calibration.calibration` returned.
    """
    from matplotlib.figure import Figure

    path = Path(path)
    figure = Figure(figsize=(4.2, 4.2), layout="constrained")
    axes = figure.subplots()
    confidence = [point["confidence"] for point in calibration["bins"]]
    accuracy = [point["accuracy"] for point in calibration["bins"]]
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--", label="calibrated")
    axes.plot(confidence, accuracy, marker="o", clip_on=False, label=f"ECE {calibration['ece']:.4f}")
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="confidence", ylabel="accuracy")
    axes.set_title(f"{calibration['tokens']:,} tokens, {len(confidence)} bins of equal mass", fontsize="medium")
    axes.legend(loc="upper left")
    with file_in_progress(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=150)
