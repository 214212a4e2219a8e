"""What `fairseq-kd evaluate` prints of a result: a few lines."""


def summary(result: dict) -> list[str]:
    """Lines of text; only what is in the result."""
    lines = []
    for name in ("bleu", "chrf", "ter"):
        lines += [result[name]["verbose"], f"    {result[name]['signature']}"]
    if result["form"] not in (None, "cased"):
        lines.append(f"    of {result['form']} text: not comparable with scores of plain text")
    lines += [_behaviour(result["behaviour"]), *_efficiency(result)]
    sections = {
        "latency": _latency,
        "calibration": _calibration,
        "agreement": _agreement,
        "robustness": _robustness,
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
    memory = "memory unknown" if rss is None else f"{rss / 1e6:,.0f} MB of memory at most"
    if "peak_gpu_bytes" in found:
        memory += f", {found['peak_gpu_bytes'] / 1e6:,.0f} MB on the GPU"
    operations = found["operations_per_token"]
    counted = "operations not counted for this model"
    if operations is not None:
        counted = f"{operations / 1e6:,.2f} M operations a target token at {found['operations_length']} tokens"
    return [
        f"{result['sentences']:,} sentences in {result['seconds']:.1f} s on {result['device']}, "
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
        f"bits a token, Brier {found['brier']:.4f}, accuracy {found['accuracy']:.2%} of {found['tokens']:,} tokens"
    ]


def _agreement(found: dict) -> list[str]:
    return [
        f"agreement with {found['teacher']['path']}: {found['top1']:.2%} of {found['tokens']:,} tokens; against its "
        f"translations {found['bleu']['verbose']}",
        f"    {found['bleu']['signature']}",
    ]


def _robustness(found: dict) -> list[str]:
    lines = [f"words of the source noised ({found['noise']}, seed {found['seed']}):"]
    lines.append(f"{'noise':>10}{'realised':>10}{'BLEU':>8}{'± 95 %':>8}{'relative drop':>15}")
    for row in found["levels"]:
        interval = f"{row['bleu']['ci']:.2f}" if "ci" in row["bleu"] else "-"
        drop = "-" if row["relative_drop"] is None else f"{row['relative_drop']:.1%}"
        shares = f"{row['percent']:>8g} %{row['realised']:>8.2f} %"
        unchanged = "  no word was changed" if row["percent"] > 0 and row["realised"] == 0 else ""
        lines.append(f"{shares}{row['bleu']['score']:>8.2f}{interval:>8}{drop:>15}{unchanged}")
    return lines
