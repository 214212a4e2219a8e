"""Keep beside a data-bin of stock fairseq-preprocess what `prepare` keeps in its own: subword model, text, manifest.

The binary files are read, compared and hashed, and never written. The new files are made in a temporary folder of the
data-bin. Its manifest is written last; then the files get their names, the manifest again last. A killed process leaves
a folder without a manifest, which is removed, or a complete one, which the next `adopt` moves to its place.
"""

import os
import re
import shutil
from pathlib import Path

from fairseq_kd.artifacts.data_bin import Part, check_subset, format_of, parts_of, sentences
from fairseq_kd.artifacts.data_bin_check import count_id, read_dictionary
from fairseq_kd.artifacts.inputs import Inputs
from fairseq_kd.artifacts.locks import exclusive
from fairseq_kd.artifacts.manifest import MANIFEST_NAME, check_files, hash_files, library_versions, read_manifest
from fairseq_kd.artifacts.records import write_record
from fairseq_kd.artifacts.request import describe_difference
from fairseq_kd.artifacts.writing import naming_file, rename
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.paths import check_data_bin
from fairseq_kd.core.progress import Progress
from fairseq_kd.corpus.adopt_request import Adoption, corpus_name
from fairseq_kd.corpus.fit import check_model, check_text
from fairseq_kd.corpus.subword import copy_subword_models, describe_models
from fairseq_kd.corpus.text import read_evaluation_text, write_lines
from fairseq_kd.inference.opening import infer_languages

FORMAT = 1
KEPT = ("raw", "subword")  # the folders that are written
STAGE = ".adopt.part"


def adopt(data_bin, adoption: Adoption, *, replace: bool = False, say=print) -> dict:
    """Write subword/, raw/ and manifest.json into `data_bin`, and return the manifest.

    replace: write them again if an earlier adoption had another request, or the binary files have changed since.
    Without it such a data-bin is refused. A data-bin that was adopted with the same request is checked and kept.
    Raises KDError for what does not fit together; then nothing is written.
    """
    check_data_bin(data_bin, "DATA_BIN")
    data_bin = Path(data_bin)
    if (data_bin / STAGE).exists():
        with _alone(data_bin):
            _finish(data_bin)
    languages = adoption.languages or infer_languages(data_bin)
    with Inputs() as inputs:
        inputs.watch_data_bin(data_bin)
        request = adoption.describe(languages, inputs)
        if (manifest := _finished(data_bin, request, replace)) is not None:
            say(f"{data_bin} is adopted already, and its files are unchanged: nothing to do")
            return manifest
        with _alone(data_bin):
            stage = data_bin / STAGE
            stage.mkdir()
            try:
                with naming_file(data_bin / MANIFEST_NAME):
                    manifest = {"format": FORMAT, "kind": "data-bin", "request": request}
                    manifest |= _make(data_bin, adoption, languages, stage, say)
                    manifest |= {"versions": library_versions(), "files": _hashes(data_bin, languages, stage, inputs)}
                    inputs.check()
                    write_record(stage / MANIFEST_NAME, manifest)
            except BaseException:
                shutil.rmtree(stage, ignore_errors=True)
                raise
            _finish(data_bin)
    say(f"{data_bin} is adopted: subword/, raw/ and {MANIFEST_NAME} are written, its binary files are as before")
    return manifest


def _alone(data_bin: Path):
    """The lock of the data-bin. Raises KDError when it is not writable or another process holds it."""
    if not os.access(data_bin, os.W_OK | os.X_OK):
        raise KDError(
            f"cannot write to {data_bin}, where adopt keeps the subword model and the text: change its owner or mode, "
            "or adopt a copy"
        )
    return exclusive(data_bin / MANIFEST_NAME)


def _finished(data_bin: Path, request: dict, replace: bool) -> dict | None:
    """The manifest of the same adoption; None where it must be made. Raises KDError for what must not be replaced."""
    if (manifest := read_manifest(data_bin)) is None:
        for name in KEPT:
            if (data_bin / name).exists():
                raise KDError(
                    f"{data_bin / name} exists, and no {MANIFEST_NAME} says what it is. adopt would write this folder: "
                    "remove or rename it"
                )
        return None
    made = manifest.get("request")
    if not isinstance(made, dict) or made.get("name") != request["name"]:
        raise KDError(_why_not(data_bin, manifest))
    if replace:
        return None
    if (difference := describe_difference(made, request)) is not None:
        raise KDError(
            f"{data_bin} was adopted with {difference}: give the same options as before, which changes nothing, or "
            "--replace to keep what this command has"
        )
    try:
        check_files(data_bin, manifest["files"])
    except KDError as error:
        raise KDError(f"{error}, or give --replace to adopt it as it is now") from error
    return manifest


def _why_not(data_bin: Path, manifest: dict) -> str:
    if "subword" in manifest:
        return f"{data_bin} has its own subword model, so adopt has nothing to add: use it as it is"
    kind = str(manifest.get("kind")).removeprefix("fairseq_kd ")
    return (
        f"{data_bin} is a {kind} with a manifest of its own, so adopt cannot write another: adopt the data-bin that "
        "it was made from, and make it again"
    )


def _finish(data_bin: Path) -> None:
    """Give the files of a complete temporary folder their names, and remove the folder. The caller holds the lock."""
    stage = data_bin / STAGE
    if (manifest := read_manifest(stage)) is not None:
        new = [name for name in manifest["files"] if name.startswith(tuple(f"{folder}/" for folder in KEPT))]
        for name in (name for name in new if (stage / name).exists()):
            (data_bin / name).parent.mkdir(exist_ok=True)
            rename(stage / name, data_bin / name)
        for folder in KEPT:  # of an adoption that is replaced
            for path in (data_bin / folder).glob("*"):
                if f"{folder}/{path.name}" not in new:
                    path.unlink()
        rename(stage / MANIFEST_NAME, data_bin / MANIFEST_NAME)
    shutil.rmtree(stage)


def _make(data_bin: Path, adoption: Adoption, languages, stage: Path, say) -> dict:
    """Check everything, write the files of `stage`, and return what the manifest says about them."""
    parts = _parts(data_bin, languages)
    adoption.check_subsets(data_bin, parts)
    for subset in parts:
        check_subset(data_bin, subset, languages)
    dictionaries = _dictionaries(data_bin, languages)
    models, names = copy_subword_models(adoption.models, stage / "subword")
    fits = {}
    for number, lang in enumerate(languages):
        sides = [part[number] for part in _compared(parts) if format_of(part[number]) is not None]
        fits[lang] = check_model(sides, dictionaries[lang], models[lang], adoption.models[lang], lang)
        say(f"{lang}: {fits[lang]}")
    kept = _keep_text(adoption, parts, languages, dictionaries, models, stage, say)
    return {
        "source_lang": languages[0],
        "target_lang": languages[1],
        "form": adoption.form,
        "subsets": {
            subset: {"corpus_name": _name_of(subset, adoption, languages), "text": kept[subset]}
            | _count(part, languages, dictionaries)
            for subset, part in parts.items()
        },
        "subword": describe_models(models, names),
        "joint_dictionary": dictionaries[languages[0]] == dictionaries[languages[1]],
        "adopted": {"subword_model": {lang: fit.as_dict() for lang, fit in fits.items()}},
    }


def _parts(data_bin: Path, languages) -> dict[str, Part]:
    """Subset -> its sides, for all subsets of the language pair."""
    source, target = map(re.escape, languages)
    pattern = re.compile(rf"([^.]+)\.(?:{source}-{target}|{target}-{source})\.{source}\.idx")
    names = sorted(match[1] for path in data_bin.iterdir() if (match := pattern.fullmatch(path.name)))
    if not names:
        raise KDError(f"{data_bin} has no subset for {'-'.join(languages)}: give --source-lang and --target-lang")
    return {name: parts_of(data_bin, name, languages, combine=False)[0] for name in names}


def _compared(parts: dict[str, Part]) -> list[Part]:
    """The sets for evaluation, else the training set: its text may have been segmented at random (BPE dropout)."""
    return [part for name, part in parts.items() if not name.startswith("train")] or list(parts.values())


def _dictionaries(data_bin: Path, languages) -> dict:

    return {lang: read_dictionary(data_bin / f"dict.{lang}.txt") for lang in languages}


def _keep_text(adoption: Adoption, parts, languages, dictionaries, models, stage: Path, say) -> dict[str, dict]:
    """Write the given texts to raw/; return subset -> {language: {"lines", "same"}} of these texts."""
    (stage / "raw").mkdir()
    kept = {subset: {} for subset in parts}
    for number, (lang, texts) in enumerate(zip(languages, (adoption.sources, adoption.references), strict=True)):
        for subset, path in texts.items():
            lines = read_evaluation_text(path)
            same = check_text(path, lines, parts[subset][number], dictionaries[lang], models[lang])
            write_lines(stage / "raw" / f"{subset}.{lang}", lines)
            kept[subset][lang] = {"lines": len(lines), "same": same}
            say(f"{subset}.{lang}: {len(lines):,} lines, {same:,} of them have the pieces of the data-bin ({path})")
    return kept


def _name_of(subset: str, adoption: Adoption, languages) -> str:
    """The name of the text of a subset; the subset's own name where no references are kept."""
    path = adoption.references.get(subset)
    return subset if path is None else corpus_name(path, languages[1])


def _count(part: Part, languages, dictionaries) -> dict:
    sides = {lang: side for lang, side in zip(languages, part, strict=True) if format_of(side) is not None}
    unknown = {lang: count_id(side, dictionaries[lang].unk()) for lang, side in sides.items()}
    return {"pairs": sentences(part.source), "unknown_tokens": unknown}


def _hashes(data_bin: Path, languages, stage: Path, inputs: Inputs) -> dict[str, str]:
    """sha256 of the files that other commands read, by name in sorted order."""
    parts = [side for part in _parts(data_bin, languages).values() for side in part]
    names = {f"{side.name}.{ending}" for side in parts for ending in ("bin", "idx")}
    names |= {f"dict.{lang}.txt" for lang in languages}
    found, names = hash_files(stage), sorted(name for name in names if (data_bin / name).is_file())
    progress = Progress("hashing", len(names), "files")
    found |= {name: inputs.sha256(data_bin / name) for name in progress.over(names)}
    progress.finish()
    return dict(sorted(found.items()))
