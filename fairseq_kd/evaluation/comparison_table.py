"""A comparison as plain text."""

NAMES = {"bleu": "BLEU", "chrf": "chrF2", "ter": "TER"}


def table(comparison: dict) -> list[str]:
    """Lines ready to print, of what `compare.compare` returned."""
    baseline, *others = comparison["systems"]
    metric, seeds = NAMES[comparison["metric"]], len(baseline["scores"])
    width = max(len(system["name"]) for system in comparison["systems"]) + 2
    lines = [f"{metric} of {comparison['segments']:,} segments against {baseline['name']}; p after Holm's correction"]
    if seeds > 1:
        paired = "seed by seed" if comparison["pairing"] == "seed" else "run by run in the order of the files"
        lines += ["", *_over_seeds(comparison, width, metric), "", f"{paired}, over segments"]
    lines += ["", *_over_segments(comparison, width, metric), ""]
    decided = "a paired t-test over seeds" if seeds > 1 else "approximate randomisation"
    for system in others:
        lines.append(f"{system['name']}: {system['verdict']} (by {decided}, alpha {comparison['alpha']:g})")
    return [*lines, *comparison["signatures"].values()]


def _over_seeds(comparison: dict, width: int, metric: str) -> list[str]:
    lines = [f"{'system':<{width}}{'seeds':>6}{metric:>9}{'sd':>7}{'difference':>12}{'t':>8}{'p':>9}{'p Holm':>9}"]
    for system in comparison["systems"]:
        line = f"{system['name']:<{width}}{len(system['scores']):>6}{system['mean']:>9.2f}{system['sd']:>7.2f}"
        if (found := system["paired_t"]) is not None:
            t = "-" if found["t"] is None else f"{found['t']:.2f}"
            line += f"{system['difference']:>+12.2f}{t:>8}{_p(found['p']):>9}{_p(found['p_holm']):>9}"
        lines.append(line)
    return lines


def _over_segments(comparison: dict, width: int, metric: str) -> list[str]:
    baseline = comparison["systems"][0]
    lines = [
        f"{'system':<{width}}{'seed':>6}{metric:>9}{'± 95 %':>8}{'difference':>12}"
        f"{'bootstrap p':>13}{'p Holm':>9}{'randomisation p':>17}{'p Holm':>9}"
    ]
    for run, theirs in enumerate(baseline["scores"]):
        for system in comparison["systems"]:
            seed = "-" if system["seeds"][run] is None else system["seeds"][run]
            line = f"{system['name']:<{width}}{seed:>6}{system['scores'][run]:>9.2f}{system['ci'][run]:>8.2f}"
            if system is not baseline:
                bootstrap, randomised = system["bootstrap"], system["approximate_randomisation"]
                line += f"{system['scores'][run] - theirs:>+12.2f}"
                line += f"{_p(bootstrap['p'][run]):>13}{_p(bootstrap['p_holm'][run]):>9}"
                line += f"{_p(randomised['p'][run]):>17}{_p(randomised['p_holm'][run]):>9}"
            lines.append(line)
    return lines


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
