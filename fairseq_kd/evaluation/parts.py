"""The part of the data to which each segment belongs, as `fairseq-kd partition` writes it: one label per line."""

from pathlib import Path

from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus.text import read_evaluation_text

MOST_PARTS = 100


def read_parts(path, segments: int) -> list[str]:
    """One label per segment.

    Raises KDError for a file that does not exist, has another number of lines or an empty line, and for more than
    MOST_PARTS different labels.
    """
    if not Path(path).is_file():
        raise KDError(f"--parts {path} does not exist or is not a file: give a file with one label per segment")
    labels = read_evaluation_text(path)
    if len(labels) != segments:
        raise KDError(
            f"--parts {path} has {len(labels):,} lines for {segments:,} segments, so the part of a segment is not "
            "known: give the file of this test set, with one label per segment"
        )
    if "" in labels:
        raise KDError(f"line {labels.index('') + 1} of --parts {path} is empty: each segment needs a label of its part")
    if (found := len(set(labels))) > MOST_PARTS:
        raise KDError(
            f"--parts {path} has {found:,} different labels, more than {MOST_PARTS}, so it may be the text of the test "
            "set: give a file with the part of each segment"
        )
    return labels
