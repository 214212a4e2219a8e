"""The lines that `fairseq-kd evaluate` prints for some entries of a result."""


def describe_metrics(found: dict) -> list[str]:
    """Of the entry "metrics", see `other_metrics`."""
    return [line for one in found.values() for line in (one["verbose"], f"    {one['signature']}")]


def describe_gap(found: dict) -> list[str]:
    """Of the entry "gap", see `gap`."""
    train, ours = found["train"], found["evaluated"]
    low, high = found["interval"] or (None, None)
    interval = "" if low is None else f", 95 % interval {low:+.3f} to {high:+.3f}"
    return [
        f"overfitting: NLL {ours['nll_bits']:.3f} bits per token, {train['nll_bits']:.3f} on {train['tokens']:,} "
        f"tokens ({train['sentences']:,} sentences) of the training set: gap {found['gap_bits']:+.3f}{interval}"
    ]
