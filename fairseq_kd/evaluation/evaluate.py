"""A checkpoint on a subset: translate, detokenise, score, and keep everything in one result."""

import torch

from fairseq_kd.corpus.manifest import library_versions, sha256_file
from fairseq_kd.evaluation.references import open_references
from fairseq_kd.evaluation.score import score
from fairseq_kd.evaluation.translate import TranslateOptions, translate

FORMAT = 1


def evaluate(
    data_bin, checkpoint, subset="test", options=None, *, reference=None, post_process=None, trust=False
) -> dict:
    """Score `checkpoint` on `subset` of `data_bin` and return the result, ready for JSON.

    A data-bin made by `fairseq-kd prepare` brings references and subword model. For one made by plain
    fairseq-preprocess, reference (a text file) and post_process (how subwords are joined) must be given.
    Raises KDError for input that cannot be used.
    """
    options = options or TranslateOptions()
    references = open_references(data_bin, subset, reference, post_process)
    translations = translate(checkpoint, data_bin, subset, options, len(references.lines), trust=trust)
    hypotheses = [references.decode(line) for line in translations.hypotheses]
    return {
        "format": FORMAT,
        "kind": "result",
        "checkpoint": str(checkpoint),
        "checkpoint_sha256": sha256_file(checkpoint),
        "data_bin": str(data_bin),
        "manifest_sha256": references.manifest_sha256,
        "subset": subset,
        "corpus_name": references.corpus_name,
        "reference": references.path,
        "post_process": references.post_process,
        "dictionary_check": translations.dictionary_check,
        "sentences": len(hypotheses),
        **score(hypotheses, references.lines),
        "seconds": round(translations.seconds, 3),
        "parameters": translations.parameters,
        "updates": translations.updates,
        "decoding": options.as_dict(),
        "device": str(options.device()),
        "threads": torch.get_num_threads(),
        "versions": library_versions(),
        "hypotheses": hypotheses,
    }
