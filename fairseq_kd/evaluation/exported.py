"""Export a student as a CTranslate2 folder, and compare translations, size and speed before and after."""

import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from fairseq_kd.artifacts.data_bin import format_of, parts_of
from fairseq_kd.artifacts.folders import finished, folder_in_progress
from fairseq_kd.artifacts.hashes import dictionary_hash
from fairseq_kd.artifacts.inputs import Inputs
from fairseq_kd.artifacts.manifest import MANIFEST_NAME, hash_files, library_versions, read_prepared
from fairseq_kd.artifacts.records import write_record
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.progress import Progress
from fairseq_kd.corpus.adopt_request import by_language, hash_models
from fairseq_kd.corpus.fit import check_model
from fairseq_kd.corpus.subword import copy_subword_models, describe_models, open_model
from fairseq_kd.evaluation.evaluate import evaluate
from fairseq_kd.evaluation.segments import Segments, read_segments
from fairseq_kd.evaluation.system import System, TranslateOptions, open_system
from fairseq_kd.export.runtime import check_installed, load_translator, symbols, write_model
from fairseq_kd.scoring.score import Scorer, choose_scorer
from fairseq_kd.sequence.ctranslate2_backend import MAX_TOKENS, CTranslate2Backend

KIND = "fairseq_kd exported model"
FORMAT = 1
SUBWORD = "subword"  # folder of the subword model in a data-bin and in the exported folder


def export(
    checkpoint,
    data_bin,
    out,
    *,
    quantize="none",
    subset="test",
    options=None,
    reference=None,
    post_process=None,
    subword_model=None,
    tokenize=None,
    trust=False,
) -> dict:
    """Write the folder `out`, translate `subset` with the checkpoint and with the folder, and return the manifest.

    quantize: one of `runtime.QUANTIZATIONS`. options, reference, post_process, tokenize: as in `evaluate`.
    subword_model: language -> file, see `adopt_request.parse_models`, for a data-bin without its own; post_process is
    then None.
    A complete `out` from the same inputs is checked and kept.
    Raises KDError for input that cannot be used, and for a model that CTranslate2 cannot express.
    """
    check_installed()
    options = options or TranslateOptions()
    with Inputs() as inputs:
        inputs.watch(checkpoint, *([] if reference is None else [reference]))
        inputs.watch_data_bin(data_bin)
        if subword_model is not None:
            inputs.watch(*subword_model.values())
            post_process = _kind_of(subword_model, data_bin, post_process)
        given = {"reference": reference, "post_process": post_process, "tokenize": tokenize}
        return _export(checkpoint, data_bin, Path(out), quantize, subset, options, given, subword_model, trust, inputs)


def _export(checkpoint, data_bin, out: Path, quantize, subset, options, given: dict, models, trust, inputs) -> dict:
    """given: reference, post_process and tokenize. models: `subword_model` of `export`."""
    segments = read_segments(data_bin, subset, given["reference"], given["post_process"])
    sentences = len(segments.references)
    exact = replace(options, fp16=False)  # export unrounded weights; --fp16 is for fairseq's translation
    system = open_system(checkpoint, data_bin, subset, exact, sentences, trust=trust, data_option="--data")
    scorer = choose_scorer(system.task.cfg.target_lang, given["tokenize"], segments.references)
    request = describe(inputs.sha256(checkpoint), system, quantize, segments, options, scorer)
    paths = None if models is None else by_language(models, (system.task.cfg.source_lang, system.task.cfg.target_lang))
    if paths is not None:
        request["subword_model"] = hash_models(paths, inputs)
    if (manifest := finished(out, request)) is not None:
        return manifest
    with folder_in_progress(out, inputs) as folder:
        subword = (
            copy_subword_model(data_bin, folder) if paths is None else _take_model(paths, system, segments, folder)
        )
        try:
            write_model(system.model, system.task.source_dictionary, system.task.target_dictionary, folder, quantize)
        except KDError as error:
            raise KDError(f"{checkpoint} cannot be exported: {error}") from error
        # first, because the model may not run here and the translations take time
        translator = load_translator(folder, options.device(), "default", workers=torch.get_num_threads())
        given = given | {"tokenize": scorer.tokenize}
        before = evaluate(data_bin, checkpoint, subset, options, **given, trust=trust)
        after = evaluate_exported(translator, system, segments, scorer)
        manifest = {
            **request,
            **compared(before, after, Path(checkpoint).stat().st_size, (folder / "model.bin").stat().st_size),
            "subword": subword,
            "form": segments.origin["form"],
            "max_positions": [system.source_limit(), system.model.max_positions()[1]],
            "versions": library_versions(),
            "files": hash_files(folder),
        }
        write_record(folder / MANIFEST_NAME, manifest)
    return manifest


def _kind_of(models: dict[str, str], data_bin, post_process: str | None) -> str:
    """The kind of the given model. Raises KDError where the data-bin has its own, and for another --post-process."""
    if read_prepared(data_bin) is not None:
        raise KDError(f"--subword-model has no effect: {data_bin} has its own subword model, which is exported")
    path = next(iter(models.values()))
    if post_process not in (None, kind := open_model(path).kind):
        raise KDError(f"--post-process {post_process}: must be {kind}, the kind of --subword-model {path}, or left out")
    return kind


def _take_model(paths: dict[str, str], system: System, segments: Segments, folder) -> dict:
    """Copy the given models, language -> file, and return their entry in the manifest.

    Raises KDError for a model with which the subset was not segmented.
    """
    models, names = copy_subword_models(paths, Path(folder) / SUBWORD)
    data_bin, subset = segments.origin["data_bin"], segments.origin["subset"]
    part = parts_of(data_bin, subset, tuple(paths), combine=False)[0]
    dictionaries = (system.task.source_dictionary, system.task.target_dictionary)
    for lang, side, dictionary in zip(paths, part, dictionaries, strict=True):
        if format_of(side) is not None:
            check_model([side], dictionary, models[lang], paths[lang], lang)
    return describe_models(models, names)


def describe(
    checkpoint_sha256: str, system: System, quantize: str, segments: Segments, options: TranslateOptions, scorer: Scorer
) -> dict:
    """The request: everything that the folder is made from."""
    task = system.task
    return {
        "kind": KIND,
        "format": FORMAT,
        "checkpoint_sha256": checkpoint_sha256,
        "quantize": quantize,
        "languages": [task.cfg.source_lang, task.cfg.target_lang],
        "dictionaries": [dictionary_hash(found) for found in (task.source_dictionary, task.target_dictionary)],
        "manifest_sha256": segments.origin["manifest_sha256"],
        "subset": segments.origin["subset"],
        "post_process": segments.origin["post_process"],
        "decoding": options.as_dict(),
        "device": str(options.device()),
        "tokenize": scorer.recorded,
    }


def evaluate_exported(translator, system: System, segments: Segments, scorer: Scorer) -> dict:
    """Scores, seconds and hypotheses of the exported model. It has as many threads as torch had for the checkpoint."""
    task, dataset, device = system.task, system.dataset, system.options.device()
    limit = system.model.max_positions()[1]
    settings, max_tokens = system.options.as_dict(), MAX_TOKENS[device.type]
    backend = CTranslate2Backend(translator, task, dataset, settings, max_tokens, limit, symbols)
    progress = Progress("translating", len(dataset), "sentences")
    started = time.monotonic()
    found = backend.translate(np.arange(len(dataset)), progress.advance)
    seconds = time.monotonic() - started
    progress.finish()
    lines = (task.target_dictionary.string(torch.as_tensor(found[n][0].tokens)) for n in range(len(dataset)))
    hypotheses = [segments.decode(line) for line in lines]
    return {
        **scorer.score(hypotheses, segments.references),
        "seconds": round(seconds, 3),
        "hypotheses": hypotheses,
        "compute_type": translator.compute_type,
    }


def compared(before: dict, after: dict, checkpoint_bytes: int, model_bytes: int) -> dict:
    """The manifest entries that compare both models. The sizes are the bytes of the checkpoint and of model.bin."""
    pairs = zip(before["hypotheses"], after["hypotheses"], strict=True)
    count = before["sentences"]
    sides = {
        name: {
            "bleu": result["bleu"],
            "chrf": result["chrf"],
            "bytes": size,
            "seconds": result["seconds"],
            "sentences_a_second": round(count / max(result["seconds"], 0.001), 1),
        }
        for name, result, size in (("before", before, checkpoint_bytes), ("after", after, model_bytes))
    }
    return {
        **sides,
        "sentences": count,
        "same_translations": sum(ours == theirs for ours, theirs in pairs) / count,
        "parameters": before["parameters"],
        "weight_bytes": 4 * before["parameters"],  # in float32; a checkpoint also holds the optimizer's state
        "compute_type": after["compute_type"],
        "threads": before["threads"],
        "dictionary_check": before["dictionary_check"],
    }


def copy_subword_model(data_bin, folder) -> dict | None:
    """Copy the data-bin's subword model, which is needed to translate plain text. None if the data-bin has none."""
    manifest = read_prepared(data_bin)
    if manifest is None:
        return None
    for name in {name for name in manifest["subword"]["files"].values() if name}:
        (Path(folder) / SUBWORD).mkdir(exist_ok=True)
        shutil.copyfile(Path(data_bin) / SUBWORD / name, Path(folder) / SUBWORD / name)
    return manifest["subword"]
