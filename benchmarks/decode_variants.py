"""What would make decoding by CTranslate2 faster still, and what does it cost? One thread, user CPU seconds.

Usage: python benchmarks/decode_variants.py DATA_BIN --teacher T [--sentences 1500]

The variants, each against float32 with beam 5 over the same last sentences of the training set: 8-bit weights, batches
by length or as they come, a shortlist of target tokens for each source (the most probable by IBM model 1 of all other
training pairs, and the most frequent), smaller beams. Printed: ratio of CPU time, share of same hypotheses, BLEU
against the gold targets.
"""

import argparse
import resource
import shutil
import tempfile
from pathlib import Path

import ctranslate2
import numpy as np

from fairseq_kd.corpus.subword import subword_decoder
from fairseq_kd.export.runtime import numbers
from fairseq_kd.scoring.score import choose_scorer
from fairseq_kd.sequence.ctranslate2_backend import MAX_TOKENS, convert
from fairseq_kd.teacher.ensemble import open_teachers

VARIANTS = {
    "float32, beam 5": {},
    "not sorted by length": {"sorted": False},
    "int8": {"dtype": "int8"},
    "shortlist 20 + 100": {"shortlist": (20, 100)},
    "shortlist 50 + 200": {"shortlist": (50, 200)},
    "int8, shortlist 50 + 200": {"dtype": "int8", "shortlist": (50, 200)},
    "int8, beam 3": {"dtype": "int8", "beam": 3},
    "int8, beam 2": {"dtype": "int8", "beam": 2},
    "int8, greedy": {"dtype": "int8", "beam": 1},
}


def lexicon(pairs, types: int, rounds: int = 4):
    """IBM model 1 over sets of tokens: (source token, target token, probability) arrays, p(target | source)."""
    keys = [(source[:, None] * types + target[None, :]).ravel() for source, target in pairs]
    starts = np.cumsum([0, *(len(target) for _, target in pairs[:-1])])
    places = [np.tile(np.arange(len(t)) + start, len(s)) for (s, t), start in zip(pairs, starts, strict=True)]
    unique, inverse = np.unique(np.concatenate(keys), return_inverse=True)
    places, probability = np.concatenate(places), np.ones(len(unique))
    for _ in range(rounds):
        weight = probability[inverse]
        counts = np.bincount(inverse, weight / np.bincount(places, weight)[places])
        probability = counts / np.bincount(unique // types, counts)[unique // types]
    return unique // types, unique % types, probability


def write_shortlist(path: Path, table, names, target_names, frequency, per_type: int, frequent: int) -> None:
    """The vocabulary map that CTranslate2 reads: source token, tab, target tokens; the first line: any source."""
    sources, targets, probability = table
    order = np.lexsort((-probability, sources))
    bounds = np.searchsorted(sources[order], np.arange(len(names) + 1))
    lines = ["\t" + " ".join(target_names[i] for i in np.argsort(-frequency)[:frequent] if i > 3)]
    for number in range(4, len(names)):
        chosen = targets[order[bounds[number] : bounds[number + 1]][:per_type]]
        if len(chosen):
            lines.append(names[number] + "\t" + " ".join(target_names[i] for i in chosen))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def measure(model: Path, sources, dtype="float32", beam=5, sorted=True, shortlist=None):
    """(CPU seconds, hypotheses) of one variant."""
    translator = ctranslate2.Translator(str(model), "cpu", compute_type=dtype, inter_threads=1, intra_threads=1)
    options = {"beam_size": beam, "max_decoding_length": 200, "use_vmap": shortlist is not None}
    translator.translate_batch(sources[:32], **options)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    if sorted:
        results = translator.translate_batch(sources, max_batch_size=MAX_TOKENS["cpu"], batch_type="tokens", **options)
    else:
        results = [
            r for at in range(0, len(sources), 64) for r in translator.translate_batch(sources[at : at + 64], **options)
        ]
    seconds = resource.getrusage(resource.RUSAGE_SELF).ru_utime - before
    return seconds, [result.hypotheses[0] for result in results]


def main() -> None:
    """Measure all variants and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_bin")
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--sentences", type=int, default=1500)
    args = parser.parse_args()
    teachers = open_teachers(args.data_bin, args.teacher, "train", data=args.data_bin)
    dataset, task, model = teachers.dataset, teachers.task, convert(teachers)
    names, target_names = numbers(task.source_dictionary), numbers(task.target_dictionary)
    target_symbols = task.target_dictionary.symbols
    spelt = dict(zip(target_names, target_symbols, strict=True))
    join = subword_decoder(args.data_bin, task.cfg.target_lang, None)[1]
    held_out = range(len(dataset) - args.sentences, len(dataset))
    sources = [[names[i] for i in dataset.src[n][:-1].tolist()] for n in held_out]
    gold = [join(" ".join(target_symbols[i] for i in dataset.tgt[n][:-1])) for n in held_out]
    scorer = choose_scorer(task.cfg.target_lang, None, gold)
    known = [(dataset.src[n].numpy()[:-1], dataset.tgt[n].numpy()[:-1]) for n in range(held_out.start)]
    frequency = np.bincount(np.concatenate([target for _, target in known]), minlength=len(target_symbols))
    table = lexicon([(np.unique(s).astype(np.int64), np.unique(t)) for s, t in known], len(target_symbols))
    print(f"{args.sentences:,} sentences, V = {len(target_symbols):,}, one thread")
    baseline = None
    with tempfile.TemporaryDirectory() as scratch:
        for name, options in VARIANTS.items():
            folder = model
            if "shortlist" in options:
                folder = Path(scratch) / name
                shutil.copytree(model, folder)
                write_shortlist(folder / "vmap.txt", table, names, target_names, frequency, *options["shortlist"])
            seconds, found = measure(folder, sources, **options)
            baseline = baseline or (seconds, found)
            same = 100 * np.mean([a == b for a, b in zip(found, baseline[1], strict=True)])
            lines = [join(" ".join(spelt[word] for word in words)) for words in found]
            bleu = scorer.score_by("bleu", lines, gold)["score"]
            print(
                f"{name:26}{seconds:7.2f} s{baseline[0] / seconds:7.2f} x{same:8.1f} % same{bleu:8.2f} BLEU", flush=True
            )


if __name__ == "__main__":
    main()
