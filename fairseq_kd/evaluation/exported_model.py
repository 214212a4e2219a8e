"""Open a folder of `fairseq-kd export` for translation. It needs no data-bin."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch

from fairseq_kd.artifacts.manifest import MANIFEST_NAME, check_files, read_manifest
from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus.plain import PlainText, form_of, missing_model, text_of_folder, text_of_model_file
from fairseq_kd.evaluation.backend import batch_tokens
from fairseq_kd.evaluation.exported import KIND
from fairseq_kd.evaluation.system import TranslateOptions
from fairseq_kd.evaluation.translator import Model
from fairseq_kd.export.runtime import SPECIAL, check_installed, load_translator, symbols
from fairseq_kd.sequence.ctranslate2_backend import CTranslate2Backend

POSITIONS = [1024, 1024]  # fairseq's defaults, for folders of versions that did not record them


def exported_model(
    folder, options: TranslateOptions, subword_model=None, in_form: bool = False, dtype: str | None = None
) -> tuple[Model, PlainText]:
    """The model of the folder, which CTranslate2 runs, and its text. For the arguments see `open_translator`.

    Raises KDError when the folder is not an exported model, was changed, or cannot be loaded here.
    """
    manifest = read_exported(folder)
    text = _text(folder, manifest, subword_model, in_form)
    check_installed()
    device = options.device()
    translator = load_translator(folder, device, dtype or "default", workers=torch.get_num_threads())
    source, target = (_dictionary(folder, side) for side in ("source", "target"))
    task = SimpleNamespace(source_dictionary=source, target_dictionary=target)
    source_limit, target_limit = manifest.get("max_positions", POSITIONS)
    max_tokens = batch_tokens(options)

    def backend(dataset, nbest: int) -> CTranslate2Backend:
        settings = options.as_dict() | {"nbest": nbest}
        return CTranslate2Backend(translator, task, dataset, settings, max_tokens, target_limit, symbols)

    return Model(source, target, source_limit, target_limit, backend), text


def read_exported(folder) -> dict:
    """The manifest of an exported folder whose files are as they were written. Raises KDError for another folder."""
    manifest = read_manifest(folder)
    if manifest is None or manifest.get("kind") != KIND:
        raise KDError(
            f"{folder} is a folder, but not an exported model: give a checkpoint, or a folder that `fairseq-kd export` "
            "wrote"
        )
    check_files(folder, manifest["files"])
    if "max_positions" not in manifest:
        print(
            f"note: an older version exported {folder}. It did not record the form of the text and the positions of "
            "the model: text is taken as it is, and lines may have 1,024 tokens",
            file=sys.stderr,
        )
    return manifest


def _text(folder, manifest: dict, subword_model, in_form: bool) -> PlainText:
    if manifest["subword"] is None and subword_model is None:
        raise KDError(missing_model(folder))
    if manifest["subword"] is None:
        return text_of_model_file(subword_model, form_of(manifest, in_form, folder), manifest["languages"])
    if subword_model is not None:
        raise KDError(f"{folder} has its own subword model, and --subword-model {subword_model} would be another: "
                      "leave --subword-model out")  # fmt: skip
    return text_of_folder(folder, manifest, in_form)


def _dictionary(folder, side: str):
    """The dictionary of a side: its entries are the vocabulary that `write_model` wrote, see `runtime.symbols`."""
    from fairseq.data import Dictionary

    names = [f"{side}_vocabulary.json", "shared_vocabulary.json"]
    path = next((path for path in (Path(folder) / name for name in names) if path.is_file()), None)
    if path is None:
        raise KDError(f"{folder} has neither {names[0]} nor {names[1]}: it is not a complete model; export it again")
    words = json.loads(path.read_text(encoding="utf-8"))
    dictionary = Dictionary()
    special = len(dictionary)
    if words[dictionary.pad()] == SPECIAL["pad"]:
        words[dictionary.pad()] = dictionary.pad_word
    if words[:special] != dictionary.symbols:
        raise KDError(f"{path} does not begin with the special symbols of a fairseq dictionary, so {MANIFEST_NAME} is "
                      "of another model; export it again")  # fmt: skip
    for word in words[special:]:
        dictionary.add_symbol(word, overwrite=True)  # a dictionary can hold a symbol several times
    return dictionary
