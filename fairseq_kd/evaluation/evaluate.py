"""A checkpoint on a subset: translate, detokenise, score, and keep everything in one result."""

from pathlib import Path

import torch

from fairseq_kd.corpus.manifest import MANIFEST_NAME, check_files, library_versions, read_prepared, sha256_file
from fairseq_kd.corpus.subword import load_decoder
from fairseq_kd.corpus.text import normalise_spaces, read_raw_lines
from fairseq_kd.errors import KDError
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
    if not Path(data_bin).is_dir():
        raise KDError(f"DATA_BIN {data_bin} is not a folder")
    manifest = read_prepared(data_bin)
    _check_reference_options(data_bin, manifest, reference, post_process)
    if manifest is not None:
        if subset not in manifest["subsets"]:
            raise KDError(f"{data_bin} has no subset {subset!r}; it has {', '.join(manifest['subsets'])} (--subset)")
        check_files(data_bin, _files_of(subset, manifest))
        reference = Path(data_bin) / "raw" / f"{subset}.{manifest['target_lang']}"
        post_process = manifest["subword"]["kind"]
    decode, references = load_decoder(post_process), _read_references(reference)
    translations = translate(checkpoint, data_bin, subset, options, len(references), trust=trust)
    hypotheses = [decode(line) for line in translations.hypotheses]
    known = (manifest or {}).get("subsets", {}).get(subset, {})
    return {
        "format": FORMAT,
        "kind": "result",
        "checkpoint": str(checkpoint),
        "checkpoint_sha256": sha256_file(checkpoint),
        "data_bin": str(data_bin),
        "manifest_sha256": sha256_file(Path(data_bin) / MANIFEST_NAME) if manifest else None,
        "subset": subset,
        "corpus_name": known.get("corpus_name", subset),
        "reference": str(reference),
        "post_process": post_process,
        "dictionary_check": translations.dictionary_check,
        "sentences": len(hypotheses),
        **score(hypotheses, references),
        "seconds": round(translations.seconds, 3),
        "parameters": translations.parameters,
        "updates": translations.updates,
        "decoding": options.as_dict(),
        "device": str(options.device()),
        "threads": torch.get_num_threads(),
        "versions": library_versions(),
        "hypotheses": hypotheses,
    }


def _check_reference_options(data_bin, manifest, reference, post_process) -> None:
    if manifest is None and (reference is None or post_process is None):
        raise KDError(
            f"{data_bin} was not made by `fairseq-kd prepare`, so it brings neither plain-text references nor its "
            "subword model: give --reference FILE and --post-process sentencepiece|subword-nmt|none"
        )
    if manifest is not None and (reference is not None or post_process is not None):
        raise KDError(
            f"{data_bin} brings its own references and subword model; --reference and --post-process are for a "
            "data-bin made by fairseq-preprocess"
        )


def _files_of(subset: str, manifest: dict) -> dict:
    """The files that a score depends on, with the hashes of the manifest."""
    wanted = (f"{subset}.", f"raw/{subset}.", "dict.", "subword/")
    return {name: value for name, value in manifest["files"].items() if name.startswith(wanted)}


def _read_references(path) -> list[str]:
    if not Path(path).is_file():
        raise KDError(f"the reference {path} is not there (plain text is kept for evaluation subsets, not for train)")
    try:
        return [normalise_spaces(line.decode("utf-8")) for line in read_raw_lines(path)]
    except UnicodeDecodeError as error:
        raise KDError(f"the reference {path} is not UTF-8 ({error})") from error
