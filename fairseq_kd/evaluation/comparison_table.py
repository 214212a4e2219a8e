"""A comparison as plain text."""

NAMES = {"bleu": "BLEU", "chrf": "chrF2", "ter": "TER"}
DECIDED_BY = {
    "paired_t": "a paired t-test over seeds",
    "welch_t": "Welch's t-test over runs",
    "approximate_randomisation": "approximate randomisation",
}


def table(comparison: dict) -> list[str]:
    """Lines ready to print, of what `compare.compare` returned."""
    baseline, *others = comparison["systems"]
    metric = NAMES[comparison["metric"]]
    width = max(len(system["name"]) for system in comparison["systems"]) + 2
    lines = [f"{metric} of {comparison['segments']:,} segments against {baseline['name']}; p after Holm's correction"]
    if len(baseline["scores"]) > 1:
        lines += ["", *_over_runs(comparison, width, metric), *_not_paired(baseline, others)]
        lines += ["", "seed by seed, over segments"] if any(system["pairing"] == "seed" for system in others) else []
    lines += ["", *_over_segments(comparison, width, metric), ""]
    for system in others:
        decided = DECIDED_BY[system["decided_by"]]
        lines.append(f"{system['name']}: {system['verdict']} (by {decided}, alpha {comparison['alpha']:g})")
    return [*lines, *(signature for found in comparison["signatures"].values() for signature in found)]


def _over_runs(comparison: dict, width: int, metric: str) -> list[str]:
    lines = [
        f"{'system':<{width}}{'runs':>6}{metric:>9}{'sd':>7}{'difference':>12}{'test':>10}{'t':>8}{'p':>9}{'p Holm':>9}"
    ]
    for system in comparison["systems"]:
        line = f"{system['name']:<{width}}{len(system['scores']):>6}{system['mean']:>9.2f}{system['sd']:>7.2f}"
        if (found := system["paired_t"] or system["welch_t"]) is not None:
            test, t = "paired" if system["paired_t"] else "Welch", "-" if found["t"] is None else f"{found['t']:.2f}"
            line += f"{system['difference']:>+12.2f}{test:>10}{t:>8}{_p(found['p']):>9}{_p(found['p_holm']):>9}"
        lines.append(line)
    return lines


def _not_paired(baseline: dict, others: list[dict]) -> list[str]:
    """Why some systems have Welch's test."""
    names = ", ".join(system["name"] for system in others if system["pairing"] == "none")
    why = (
        f"not the seeds of {baseline['name']}, each once, so its runs are no pairs: Welch's t-test, none over segments"
    )
    return [f"{names}: {why}"] if names else []


def _over_segments(comparison: dict, width: int, metric: str) -> list[str]:
    baseline, *others = comparison["systems"]
    lines = [
        f"{'system':<{width}}{'seed':>6}{metric:>9}{'± 95 %':>8}{'difference':>12}"
        f"{'bootstrap p':>13}{'p Holm':>9}{'randomisation p':>17}{'p Holm':>9}"
    ]
    paired = [system for system in others if system["pairing"] != "none"]
    for run, theirs in enumerate(baseline["scores"]):
        lines.append(_run(baseline, run, width))
        for system in paired:
            bootstrap, randomised = system["bootstrap"], system["approximate_randomisation"]
            line = f"{_run(system, run, width)}{system['scores'][run] - theirs:>+12.2f}"
            line += f"{_p(bootstrap['p'][run]):>13}{_p(bootstrap['p_holm'][run]):>9}"
            lines.append(f"{line}{_p(randomised['p'][run]):>17}{_p(randomised['p_holm'][run]):>9}")
    rest = [system for system in others if system["pairing"] == "none"]
    return [*lines, *(_run(system, run, width) for system in rest for run in range(len(system["scores"])))]


def _run(system: dict, run: int, width: int) -> str:
    seed = "-" if system["seeds"][run] is None else system["seeds"][run]
    return f"{system['name']:<{width}}{seed:>6}{system['scores'][run]:>9.2f}{system['ci'][run]:>8.2f}"


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
