"""How much of a teacher's mass a cache leaves out, and from where on that is another teacher."""

MOST = 0.5  # share of the mass outside of the stored entries


def describe_truncation(manifest: dict, temperature: float) -> str | None:
    """A sentence about a cache that leaves out most of the mass at this temperature, or None.

    manifest: of a cache that has the temperature.
    """
    if (mass := manifest["mean_tail_mass"][manifest["temperatures"].index(temperature)]) <= MOST:
        return None
    count = manifest.get("tail_shapes", 0)
    learnt = f"its sum and one of {count} shapes" if count else "its sum"
    return (
        f"at temperature {temperature:g}, {mass:.0%} of the teacher's mass is outside of the {manifest['k']} entries "
        f"that the cache stores for a token, and a student learns nothing about it but {learnt}. A label-smoothed "
        "teacher does this above temperature 1: use a lower temperature, a larger --top-k, or a teacher that runs"
    )
