"""How much of a teacher's mass a cache leaves out, and from where on that is another teacher."""

MOST = 0.5  # share of the mass outside of the stored entries


def mass_outside(manifest: dict, temperature: float) -> float:
    """The mean mass outside of the stored entries, 0 to 1. manifest: of a cache that has the temperature."""
    masses = dict(zip(manifest["temperatures"], manifest["mean_tail_mass"], strict=True))
    return masses[float(temperature)]


def describe_truncation(manifest: dict, temperature: float) -> str | None:
    """A sentence about a cache that leaves out most of the mass at this temperature, or None. See `mass_outside`."""
    if (mass := mass_outside(manifest, temperature)) <= MOST:
        return None
    count = manifest.get("tail_shapes", 0)
    learnt = f"its sum and one of {count} shapes" if count else "its sum"
    return (
        f"at temperature {temperature:g}, {mass:.0%} of the teacher's mass is outside of the {manifest['k']} entries "
        f"that the cache stores for a token, and a student learns nothing about it but {learnt}. A label-smoothed "
        "teacher does this above temperature 1: use a lower temperature, a larger --top-k, or a teacher that runs"
    )
