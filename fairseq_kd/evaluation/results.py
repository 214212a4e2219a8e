"""Result files of `fairseq-kd evaluate`: read them, check that they can be compared, and print results as text."""

from fairseq_kd.artifacts.records import DamagedRecord, read_record
from fairseq_kd.core.errors import KDError
from fairseq_kd.evaluation.changes_table import changes_table
from fairseq_kd.evaluation.printed import describe_gap, describe_metrics
from fairseq_kd.scoring.tokenizers import STANDARD, TOKENIZERS

FORMAT = 2  # format of the result of `evaluate`


def read_result(path) -> dict:
    """A result with hypotheses, references and `tokenize` (13a for older files). Raises KDError for any other file."""
    try:
        result = read_record(path, "run `fairseq-kd evaluate` again")
    except DamagedRecord as error:
        raise KDError(f"{path} cannot be read as a result of `fairseq-kd evaluate --out`: {error.reason}") from error
    if result is None:
        raise KDError(f"{path} cannot be read as a result of `fairseq-kd evaluate --out`: it does not exist")
    if result.get("kind") != "result":
        raise KDError(f"{path} is not a result: give files that `fairseq-kd evaluate --out` wrote")
    if result.get("format") != FORMAT:
        raise KDError(
            f"{path} has format {result.get('format')!r}, this fairseq-kd compares format {FORMAT} (format 1 holds no "
            "references): run `fairseq-kd evaluate` again"
        )
    result.setdefault("tokenize", STANDARD)  # files without this entry were scored by the standard tokeniser
    _check_segments(path, result)
    return result


def _check_segments(path, result: dict) -> None:
    lists = [result.get(name) for name in ("hypotheses", "references")]
    if not all(isinstance(lines, list) for lines in lists) or not {"seed", "subset", "sources_sha256"} <= set(result):
        raise KDError(f"{path} is damaged: entries are missing; run `fairseq-kd evaluate` again")
    is_text = all(isinstance(line, str) for lines in lists for line in lines)
    if not is_text or not isinstance(result["seed"], int | None):
        raise KDError(
            f"{path} is damaged: a hypothesis or reference is not text, or the seed is not a number; run `fairseq-kd "
            "evaluate` again"
        )
    if result["tokenize"] not in TOKENIZERS:
        raise KDError(f"{path} was scored by the tokeniser {result['tokenize']!r}, which this fairseq-kd does not know")
    hypotheses, references = map(len, lists)
    if hypotheses != references or not references:
        raise KDError(
            f"{path} is damaged: it has {hypotheses} hypotheses for {references} references; run `fairseq-kd "
            "evaluate` again"
        )


def check_same_segments(paths: list, results: list[dict], metric: str, sources: bool = True) -> None:
    """Raises KDError when a result has other segments than the first result: paired tests need the same segments.

    metric: the compared metric; the tokeniser matters for BLEU and TER only, which have words. sources: whether the
    source text must also be the same; test sets with and without noise share only their references.
    """
    first, why = results[0], "paired tests need the same segments; evaluate all systems on the same subset"
    for path, result in zip(paths[1:], results[1:], strict=True):
        if metric in ("bleu", "ter") and result["tokenize"] != first["tokenize"]:
            raise KDError(
                f"{path} was scored by the tokeniser {result['tokenize']}, {paths[0]} by {first['tokenize']}: their "
                "BLEU and TER count different words; evaluate all systems with the same --tokenize"
            )
        counts = len(result["references"]), len(first["references"])
        if counts[0] != counts[1]:
            raise KDError(f"{path} has {counts[0]} segments, {paths[0]} has {counts[1]}: {why}")
        pairs = zip(result["references"], first["references"], strict=True)
        other = [number for number, (a, b) in enumerate(pairs, 1) if a != b]
        if other:
            raise KDError(
                f"{path} has other references than {paths[0]} ({len(other)} of {counts[0]}, the first is segment "
                f"{other[0]}): {why}"
            )
        if sources and result["sources_sha256"] != first["sources_sha256"]:
            raise KDError(
                f"{path} was translated from another source text than {paths[0]}, with the same references (noised, or "
                f"prepared in another way): {why}"
            )


def summary(result: dict) -> list[str]:
    """The lines that `fairseq-kd evaluate` prints, for the entries that the result has."""
    lines = []
    for name in ("bleu", "chrf", "ter"):
        lines += [result[name]["verbose"], f"    {result[name]['signature']}"]
    if result["form"] not in (None, "cased"):
        lines.append(f"    scores of {result['form']} text: not comparable with scores of plain text")
    lines += [_behaviour(result["behaviour"]), *_efficiency(result)]
    sections = {
        "metrics": describe_metrics,
        "latency": _latency,
        "calibration": _calibration,
        "agreement": _agreement,
        "gap": describe_gap,
        "robustness": _robustness,
        "changes": changes_table,
    }
    return lines + [line for name, describe in sections.items() if name in result for line in describe(result[name])]


def _behaviour(rates: dict) -> str:
    return (
        f"length ratio {rates['length_ratio']:.3f}, repetition {rates['repetition']:.2%} (references "
        f"{rates['repetition_of_references']:.2%}), copied {rates['copied']:.2%}, empty {rates['empty']:.2%}"
    )


def _efficiency(result: dict) -> list[str]:
    found = result["efficiency"]
    rss = found["peak_rss_bytes"]
    memory = "memory unknown" if rss is None else f"peak memory {rss / 1e6:,.0f} MB"
    if "peak_gpu_bytes" in found:
        memory += f", on the GPU {found['peak_gpu_bytes'] / 1e6:,.0f} MB"
    operations = found["operations_per_token"]
    counted = "operations not counted for this model"
    if operations is not None:
        counted = f"{operations / 1e6:,.2f} M operations per target token at {found['operations_length']} tokens"
    by = f" by {backend}" if (backend := result["decoding"].get("backend")) else ""
    return [
        f"{result['sentences']:,} sentences in {result['seconds']:.1f} s on {result['device']}{by}, "
        f"{found['sentences_per_second']:.1f}/s, {memory}",
        f"{result['parameters']:,} parameters ({found['weights_bytes'] / 1e6:,.1f} MB; the file "
        f"{found['checkpoint_bytes'] / 1e6:,.1f} MB), {counted}, {result['updates']:,} updates",
    ]


def _latency(found: dict) -> list[str]:
    return [
        f"latency, one sentence at a time: p50 {found['p50_ms']:.1f} ms, p95 {found['p95_ms']:.1f} ms "
        f"({found['sentences']:,} sentences)"
    ]


def _calibration(found: dict) -> list[str]:
    return [
        f"calibration: ECE {found['ece']:.4f} ({len(found['bins'])} bins of equal mass), NLL {found['nll_bits']:.3f} "
        f"bits per token, Brier {found['brier']:.4f}, accuracy {found['accuracy']:.2%} of {found['tokens']:,} tokens"
        + (f", products in {found['dtype']}" if "dtype" in found else "")
    ]


def _agreement(found: dict) -> list[str]:
    return [
        f"agreement with {found['teacher']['path']}: {found['top1']:.2%} of {found['tokens']:,} tokens; against its "
        f"translations {found['bleu']['verbose']}",
        f"    {found['bleu']['signature']}",
    ]


def _robustness(found: dict) -> list[str]:
    lines = [f"noise in the words of the source ({found['noise']}, seed {found['seed']}):"]
    lines.append(f"{'noise':>10}{'realised':>10}{'BLEU':>8}{'± 95 %':>8}{'relative drop':>15}")
    for row in found["levels"]:
        interval = f"{row['bleu']['ci']:.2f}" if "ci" in row["bleu"] else "-"
        drop = "-" if row["relative_drop"] is None else f"{row['relative_drop']:.1%}"
        shares = f"{row['percent']:>8g} %{row['realised']:>8.2f} %"
        unchanged = "  no word was changed" if row["percent"] > 0 and row["realised"] == 0 else ""
        lines.append(f"{shares}{row['bleu']['score']:>8.2f}{interval:>8}{drop:>15}{unchanged}")
    return lines


NAMES = {"bleu": "BLEU", "chrf": "chrF2", "ter": "TER"}
DECIDED_BY = {
    "paired_t": "a paired t-test over seeds",
    "welch_t": "Welch's t-test over runs",
    "approximate_randomisation": "approximate randomisation",
}


def table(comparison: dict) -> list[str]:
    """The lines that `fairseq-kd compare` prints, from the result of `compare.compare`."""
    baseline, *others = comparison["systems"]
    name, metric = comparison["metric"], NAMES.get(comparison["metric"], "score")
    width = max(len(system["name"]) for system in comparison["systems"]) + 2
    about = f"{NAMES.get(name, name)} of {comparison['segments']:,} segments against {baseline['name']}"
    lines = [f"{about}; p after Holm's correction"]
    if len(baseline["scores"]) > 1:
        lines += ["", *_over_runs(comparison, width, metric), *_not_paired(baseline, others)]
        lines += ["", "seed by seed, over segments"] if any(system["pairing"] == "seed" for system in others) else []
    lines += ["", *_over_segments(comparison, width, metric), ""]
    for system in others:
        decided = DECIDED_BY[system["decided_by"]]
        lines.append(f"{system['name']}: {system['verdict']} (by {decided}, alpha {comparison['alpha']:g})")
    return [*lines, *(signature for found in comparison["signatures"].values() for signature in found)]


def _over_runs(comparison: dict, width: int, metric: str) -> list[str]:
    digits = _digits(comparison)
    lines = [
        f"{'system':<{width}}{'runs':>6}{metric:>9}{'sd':>7}{'difference':>12}{'test':>10}{'t':>8}{'p':>9}{'p Holm':>9}"
    ]
    for system in comparison["systems"]:
        line = f"{system['name']:<{width}}{len(system['scores']):>6}{system['mean']:>9.{digits}f}"
        line += f"{system['sd']:>7.{digits}f}"
        if (found := system["paired_t"] or system["welch_t"]) is not None:
            test, t = "paired" if system["paired_t"] else "Welch", "-" if found["t"] is None else f"{found['t']:.2f}"
            line += f"{system['difference']:>+12.{digits}f}{test:>10}{t:>8}{_p(found['p']):>9}{_p(found['p_holm']):>9}"
        lines.append(line)
    return lines


def _not_paired(baseline: dict, others: list[dict]) -> list[str]:
    """The reason why some systems have Welch's test."""
    names = ", ".join(system["name"] for system in others if system["pairing"] == "none")
    why = (
        f"seeds differ from the seeds of {baseline['name']}, repeat or are missing, so runs are not paired: Welch's "
        "t-test, no test over segments"
    )
    return [f"{names}: {why}"] if names else []


def _over_segments(comparison: dict, width: int, metric: str) -> list[str]:
    (baseline, *others), digits = comparison["systems"], _digits(comparison)
    lines = [
        f"{'system':<{width}}{'seed':>6}{metric:>9}{'± 95 %':>8}{'difference':>12}"
        f"{'bootstrap p':>13}{'p Holm':>9}{'randomisation p':>17}{'p Holm':>9}"
    ]
    paired = [system for system in others if system["pairing"] != "none"]
    for run, theirs in enumerate(baseline["scores"]):
        lines.append(_run(baseline, run, width, digits))
        for system in paired:
            bootstrap, randomised = system["bootstrap"], system["approximate_randomisation"]
            line = f"{_run(system, run, width, digits)}{system['scores'][run] - theirs:>+12.{digits}f}"
            line += f"{_p(bootstrap['p'][run]):>13}{_p(bootstrap['p_holm'][run]):>9}"
            lines.append(f"{line}{_p(randomised['p'][run]):>17}{_p(randomised['p_holm'][run]):>9}")
    rest = [system for system in others if system["pairing"] == "none"]
    return [*lines, *(_run(system, run, width, digits) for system in rest for run in range(len(system["scores"])))]


def _digits(comparison: dict) -> int:
    """Digits after the point: metrics of other packages may go from 0 to 1."""
    return 2 if comparison["metric"] in NAMES else 4


def _run(system: dict, run: int, width: int, digits: int) -> str:
    seed = "-" if system["seeds"][run] is None else system["seeds"][run]
    return f"{system['name']:<{width}}{seed:>6}{system['scores'][run]:>9.{digits}f}{system['ci'][run]:>8.{digits}f}"


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
