"""Evaluate a checkpoint on a subset: translate, detokenise, score, measure, and return one result.

Keys of the result (JSON), "format" 2. The name at the end of an entry is the function or module that defines it:

    kind                                            "result"
    checkpoint, checkpoint_sha256, updates, seed    the evaluated file; updates and seed of its training
    members               sha256 of each file of an ensemble, whose checkpoint_sha256 is that of this list, whose
                          `checkpoint` is joined by ":", and which has no seed: `ensemble`
    autocast              --autocast of its training; missing if that was `none`
    lang_pair, language_tokens    SOURCE-TARGET and where the tokens are, only of a task that adds language tokens
    data_bin, manifest_sha256, subset, corpus_name, reference, form, post_process, dictionary_check
    sentences             number of segments
    tokenize              sacreBLEU's tokeniser, which cuts the words of BLEU and TER: `Scorer`; if missing, 13a
    bleu, chrf, ter       {"score", "signature", "verbose"}, with intervals also "mean" and "ci": `Scorer.score`
    behaviour             {"length_ratio", "repetition", "repetition_of_references", "copied", "empty"}: `rates`
    efficiency            {"parameters", "weights_bytes", "checkpoint_bytes", "operations_per_token",
                          "operations_length", "sentences_per_second", "peak_rss_bytes"}: `efficiency`
    seconds, parameters   of decoding; of the model
    decoding              the options; "backend" only for "ctranslate2", if missing fairseq: `BackendOptions`
    device, gpu, threads, versions      of decoding; threads: of torch, or the workers of CTranslate2
    sources_sha256        of the source text with a newline after each sentence
    hypotheses, references     plain text, one entry per segment

and on request:

    calibration           {"tokens", "accuracy", "confidence", "ece", "nll_bits", "brier",
                          "bins": [{"tokens", "confidence", "accuracy"}]}: `calibration`
    agreement             {"teacher", "tokens", "top1", "bleu", "teacher_hypotheses"}: `measures.Measuring`
    robustness            {"noise", "seed", "levels"}: `robustness`
    latency               {"sentences", "p50_ms", "p95_ms", "mean_ms"}: `efficiency`
    gap                   {"data", "seed", "train", "evaluated", "too_long", "gap_bits", "interval"}: `gap`
    metrics               name -> {"score", "signature", "verbose", "callable", "lower_is_better", "segments"}, with
                          intervals also "mean" and "ci": `other_metrics`
    changes               segments gained and lost since an earlier result: `changes`

With --loss-dtype bfloat16, calibration and gap also have "dtype": "bfloat16".

Format 1 had no ter, seed, behaviour, efficiency, sources_sha256 and references.
"""

import unicodedata
from collections.abc import Iterable

from fairseq_kd.artifacts.hashes import sha256_of_several
from fairseq_kd.artifacts.inputs import Inputs
from fairseq_kd.artifacts.manifest import library_versions
from fairseq_kd.core.paths import listed
from fairseq_kd.evaluation.backend import BackendOptions
from fairseq_kd.evaluation.efficiency import Meter, size
from fairseq_kd.evaluation.ensemble import open_checkpoints
from fairseq_kd.evaluation.measures import Measures, Measuring
from fairseq_kd.evaluation.results import FORMAT
from fairseq_kd.evaluation.segments import read_segments, text_hash
from fairseq_kd.evaluation.system import TranslateOptions
from fairseq_kd.inference.device import gpu_name
from fairseq_kd.inference.multilingual import PLAIN
from fairseq_kd.scoring.score import Scorer, check_seed, choose_scorer

NGRAM = 4  # words, as in seq-rep-4 of Welleck et al. 2020


def rates(sources: list[str], hypotheses: list[str], references: list[str], scorer: Scorer) -> dict:
    """The behaviour of translations that the text alone shows: rates over all sentences of detokenised text.

    length_ratio: tokens of the hypotheses / tokens of the references, counted as BLEU counts them.
    repetition: `repetition_rate` of the hypotheses, over the scorer's words. repetition_of_references: the same rate of
    the references, for comparison.
    copied: share of sentences whose hypothesis equals the source and is not empty. Both are compared in Unicode's form
    NFKC, because SentencePiece may have normalised the text to it.
    empty: share of sentences whose hypothesis has no characters.
    """
    count = len(hypotheses)
    pairs = list(zip(sources, hypotheses, strict=True))
    return {
        "length_ratio": scorer.metric("bleu").corpus_score(hypotheses, [references]).ratio,
        "repetition": repetition_rate(scorer.words(hypotheses)),
        "repetition_of_references": repetition_rate(scorer.words(references)),
        "copied": sum(bool(hypothesis) and _same(source, hypothesis) for source, hypothesis in pairs) / count,
        "empty": sum(not hypothesis for hypothesis in hypotheses) / count,
    }


def _same(source: str, hypothesis: str) -> bool:
    return unicodedata.normalize("NFKC", source) == unicodedata.normalize("NFKC", hypothesis)


def repetition_rate(lines: Iterable[list[str]]) -> float:
    """Share of 4-grams that occur earlier in the same line; 0 if no line has four words. lines: the words of each line.

    Source: Welleck et al. 2020 (arXiv 1908.04319), seq-rep-4; here the sums go over all lines.
    """
    total = repeated = 0
    for words in lines:
        ngrams = [tuple(words[start : start + NGRAM]) for start in range(len(words) - NGRAM + 1)]
        total += len(ngrams)
        repeated += len(ngrams) - len(set(ngrams))
    return repeated / total if total else 0.0


def evaluate(
    data_bin,
    checkpoint,
    subset="test",
    options=None,
    *,
    reference=None,
    post_process=None,
    tokenize=None,
    trust=False,
    measures=None,
    backend=None,
    lang_pair=None,
) -> dict:
    """Score `checkpoint` on `subset` of `data_bin` and return the result, ready for JSON.

    checkpoint: a file, or several joined by ":", an ensemble. trust: whether it may hold code; of an ensemble the file.
    A data-bin made by `fairseq-kd prepare` contains references and subword model. For a data-bin made by plain
    fairseq-preprocess, reference (a text file) and post_process (how subwords are joined) must be given.
    tokenize: sacreBLEU's tokeniser; None: the tokeniser for the target language.
    measures: None: scores without intervals, and the measures that cost no extra time. backend: a `BackendOptions`;
    None: fairseq. lang_pair: see `load_pair`.
    Raises KDError for input that cannot be used, before anything is decoded.
    """
    check_seed()
    options, backend = options or TranslateOptions(), backend or BackendOptions()
    checkpoints = listed(checkpoint) or [str(checkpoint)]
    trusted = checkpoints if trust is True else [trust]
    backend.check_fp16(options.fp16)
    with Inputs() as inputs:
        inputs.watch(*checkpoints, *([] if reference is None else [reference]))
        inputs.watch_data_bin(data_bin)
        segments = read_segments(data_bin, subset, reference, post_process)
        count = len(segments.references)
        system = open_checkpoints(checkpoints, data_bin, subset, options, count, trusted, lang_pair)
        sizes = size(system, checkpoints)
        origin = {
            "checkpoint": str(checkpoint),
            **_hashes([inputs.loaded(path) for path in checkpoints]),  # a training may replace them meanwhile
            **segments.origin,
        }
        scorer = choose_scorer(system.task.cfg.target_lang, tokenize, segments.references)
        system = backend.attach(system, subset, inputs)
        measuring = Measuring(measures or Measures(), system, segments, scorer, backend)
        result = _score(measuring, backend, origin, sizes)
        inputs.check()
    return result


def language_entries(system) -> dict:
    """The entries about the language pair, of a model whose task adds language tokens."""
    layout = system.frozen.members[0].layout
    pair = "-".join(system.frozen.members[0].languages)
    return {} if layout == PLAIN else {"lang_pair": pair, "language_tokens": str(layout)}


def _hashes(found: list[str]) -> dict:
    """The entries of the result about the contents of the checkpoints. found: the sha256 of each."""
    return {"checkpoint_sha256": sha256_of_several(found)} | ({"members": found} if len(found) > 1 else {})


def _score(measuring: Measuring, backend: BackendOptions, origin: dict, sizes: dict) -> dict:
    """Translate, score and measure. origin: the entries of the result about the evaluated files. sizes: see `size`."""
    system, segments, scorer = measuring.system, measuring.segments, measuring.scorer
    options = system.options
    with Meter(backend.meter_device(options)) as meter:
        segmented = system.translate()
    hypotheses, references = [segments.decode(line) for line in segmented], segments.references
    sources = segments.sources(system)
    scores = scorer.score(hypotheses, references, measuring.measures.resamples)
    return {
        "format": FORMAT,
        "kind": "result",
        **origin,
        "dictionary_check": system.dictionary_check,
        "sentences": len(hypotheses),
        "tokenize": scorer.tokenize,
        **scores,
        "behaviour": rates(sources, hypotheses, references, scorer),
        "efficiency": sizes | meter.as_dict(len(hypotheses)),
        **measuring.run(hypotheses, scores["bleu"]),
        "seconds": round(meter.seconds, 3),
        "parameters": sizes["parameters"],
        "updates": system.updates,
        "seed": system.seed,
        **({} if system.autocast is None else {"autocast": system.autocast}),
        **language_entries(system),
        "decoding": backend.recorded(options),
        "device": str(options.device()),
        "gpu": gpu_name(options.device()),
        "threads": backend.threads,
        "versions": library_versions(),
        "sources_sha256": text_hash(sources),
        "hypotheses": hypotheses,
        "references": references,
    }
