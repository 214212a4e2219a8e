"""From raw text to a data-bin that fairseq-train reads and that evaluation can score in plain text.

The folder holds the files of fairseq-preprocess, and also

    subword/         the subword model
    raw/             the sentences of the evaluation sets before segmentation, both languages
    manifest.json    inputs with hashes, options, counts, versions, and the sha256 of every other file
"""

import shutil
from pathlib import Path

from fairseq_kd.artifacts.folders import folder_in_progress, remove_leftovers
from fairseq_kd.artifacts.inputs import Inputs
from fairseq_kd.artifacts.manifest import (
    MANIFEST_NAME,
    check_files,
    hash_files,
    library_versions,
    read_manifest,
)
from fairseq_kd.artifacts.records import write_record
from fairseq_kd.artifacts.request import check_same
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.paths import check_new_data_bin
from fairseq_kd.core.progress import Progress
from fairseq_kd.corpus.binarise import binarise, count_unknown
from fairseq_kd.corpus.clean import write_clean_text
from fairseq_kd.corpus.reserved import reserve
from fairseq_kd.corpus.sentencepiece_model import SentencePieceModel
from fairseq_kd.corpus.subword import describe_models, load_subword_models, obtain_subword_models
from fairseq_kd.corpus.text import SubsetFiles, read_lines, write_lines

FORMAT = 1


def prepare(
    name, files, source_lang, target_lang, out, options, say=print, origin=None, inputs: Inputs | None = None
) -> dict:
    """Make the data-bin `out` from the raw files of each subset and return its manifest.

    files: subset ("train", "valid", "test", ...) -> SubsetFiles; or a function that takes a folder, writes such files
    into it and returns that mapping. The function is called only if `out` is not finished, so `origin` must identify
    what it writes. say: called with each line of progress.
    origin: how the raw text was made or where it comes from, for the manifest. inputs: files that were hashed for
    `origin`; they and `files` are compared before the data-bin gets its name.
    A finished `out` of the same inputs and options is checked and kept. The memory needed hardly depends on the size
    of the corpus: text is processed line by line, and subwords are learned from `options.sample` pairs.
    Raises KDError for bad input; then nothing is left under `out`.
    """
    check_new_data_bin(out)
    if source_lang == target_lang:
        raise KDError(f"source and target language are both {source_lang!r}")
    out, languages = Path(out), (source_lang, target_lang)
    with inputs or Inputs() as inputs:
        request = _describe_request(name, {} if callable(files) else files, languages, options, origin, inputs)
        if (manifest := _finished(out, request)) is not None:
            say(f"{out} is complete and unchanged")
            return manifest
        with folder_in_progress(out, inputs) as folder:
            manifest = {"format": FORMAT, "kind": "data-bin", "request": request}
            manifest |= _make(files, languages, folder, options, say)
            manifest |= {"versions": library_versions(), "files": hash_files(folder)}
            write_record(folder / MANIFEST_NAME, manifest)
    say(f"wrote {out}")
    return manifest


def _make(files, languages, folder: Path, options, say) -> dict:
    """Write the files of the data-bin into `folder`; return what the manifest says about them."""
    source_lang, target_lang = languages
    scratch = folder / "scratch"
    scratch.mkdir()
    if callable(files):
        files = files(scratch)
    prefixes, subsets = _clean(files, languages, options, scratch, say)
    pairs = {subset: found["pairs"] for subset, found in subsets.items()}
    subword = _subword_models(options, prefixes.get("train"), pairs.get("train", 0), languages, folder)
    say(f"subword model: {subword['kind']}")
    _count_unreachable(prefixes, subsets, subword["models"], target_lang, say)
    joint = _segment_and_binarise(prefixes, pairs, subword["models"], languages, folder, options)
    reserved = _reserve(folder, languages, options)
    _move_raw(prefixes, languages, folder)
    shutil.rmtree(scratch)
    _count_unknown(folder, subsets, languages, say)
    return {
        "source_lang": source_lang,
        "target_lang": target_lang,
        "form": options.form,
        "subsets": subsets,
        "subword": describe_models(subword["models"], subword["files"]),
        "joint_dictionary": joint,
        **({"reserved": reserved} if reserved else {}),
    }


def _reserve(folder: Path, languages, options) -> list[str]:
    """The names of the reserved tokens; those of `options.like` are in its dictionaries already."""
    if options.like is not None:
        return read_manifest(options.like).get("reserved", [])
    return reserve(folder, languages, options.reserve) if options.reserve else []


def _describe_request(name, files, languages, options, origin, inputs: Inputs) -> dict:
    described = options.as_dict()
    if options.like is not None:
        inputs.watch_data_bin(options.like)
    for key in ("subword_model", "like"):
        if described[key] is not None:
            path = Path(described[key]) / MANIFEST_NAME if key == "like" else Path(described[key])
            if not path.is_file():
                hint = ": a data-bin of fairseq-preprocess gets it by `fairseq-kd adopt`" if key == "like" else ""
                raise KDError(f"--{key.replace('_', '-')}: {path} is not there{hint}")
            described[key] = inputs.sha256(path)
    return {
        "name": name,
        "languages": list(languages),
        "options": described,
        "origin": origin,
        "inputs": {
            subset: {"corpus_name": f.stem, "sha256": [inputs.sha256(f.source), inputs.sha256(f.target)]}
            for subset, f in files.items()
        },
    }


def _finished(out: Path, request: dict) -> dict | None:
    remove_leftovers(out)
    if not out.exists():
        return None
    manifest = read_manifest(out)
    if manifest is None and out.is_dir() and not any(out.iterdir()):
        return None
    if manifest is None:
        raise KDError(f"{out} exists and was not made by `fairseq-kd prepare`; choose another --out")
    made = manifest.get("request", {})
    if made != request and made == request | {"options": _without_normalisation(request["options"])}:
        raise KDError(
            f"{out} was made before --normalisation was an option, by nmt_nfkc: give --normalisation nmt_nfkc, which "
            "keeps it, or choose another --out or remove it"
        )
    check_same(out, made, request)
    check_files(out, manifest["files"])
    return manifest


def _without_normalisation(options: dict) -> dict:
    return {name: value for name, value in options.items() if name != "normalisation"}


def _clean(files: dict[str, SubsetFiles], languages, options, scratch: Path, say) -> tuple[dict, dict]:
    """Write the clean text of each subset; return subset -> prefix, and subset -> its entry in the manifest."""
    prefixes, subsets = {}, {}
    kind = options.subword
    if options.like is not None:
        kind = load_subword_models(options.like, *languages)[languages[0]].kind
    for subset, paths in files.items():
        goals = {subset: scratch / f"clean.{subset}"}
        if subset == "train" and options.valid_every is not None:
            goals["valid"] = scratch / "clean.valid"
        report, pairs = write_clean_text(
            paths,
            languages,
            options,
            goals,
            f"reading {subset}",
            training=subset == "train",
            whole_words=kind == "none",
        )
        say(f"{subset} ({paths.stem}): {report.describe()}")
        for name, prefix in goals.items():
            prefixes[name] = prefix
            subsets[name] = {"corpus_name": paths.stem, "pairs": pairs[name], "cleaning": report.as_dict()}
    return prefixes, subsets


def _subword_models(options, train_prefix, train_pairs: int, languages, folder) -> dict:
    if options.like is not None:
        models = load_subword_models(options.like, *languages)
        manifest = read_manifest(options.like)
        if (form := manifest.get("form", "cased")) != options.form:
            raise KDError(f"--like {options.like} is {form} text, --form is {options.form}: give --form {form}")
        for name in {n for n in manifest["subword"]["files"].values() if n}:
            (folder / "subword").mkdir(exist_ok=True)
            (folder / "subword" / name).write_bytes((Path(options.like) / "subword" / name).read_bytes())
        return {"kind": manifest["subword"]["kind"], "files": manifest["subword"]["files"], "models": models}
    text = {lang: _sample(f"{train_prefix}.{lang}", train_pairs, options.sample) for lang in languages}
    models, names = obtain_subword_models(
        *(options.subword, text, options.vocab_size, options.joint, options.subword_model, folder / "subword"),
        normalisation=options.rule_of_normalisation(),
    )
    return {"kind": options.subword, "files": names, "models": models}


def _count_unreachable(prefixes, subsets, models, target_lang: str, say) -> None:
    """Count the references that no output can equal because the subword model normalises the text."""
    model = models[target_lang]
    if not isinstance(model, SentencePieceModel):
        return
    for subset in (name for name in prefixes if name != "train"):
        lines = read_lines(f"{prefixes[subset]}.{target_lang}")
        if count := sum(model.normalise(line) != line for line in lines):
            subsets[subset]["references_out_of_reach"] = count
            say(
                f"{subset}: the subword model changes {count} of {subsets[subset]['pairs']} references (normalisation "
                f"{model.normalisation}), so no translation can equal them; --normalisation identity would change none"
            )


def _count_unknown(folder: Path, subsets: dict, languages, say) -> None:
    for subset, found in subsets.items():
        found["unknown_tokens"] = count_unknown(folder, subset, *languages)
        if any(found["unknown_tokens"].values()):
            say(f"{subset}: tokens that are not in the dictionary: {found['unknown_tokens']}")


def _sample(path, lines: int, wanted: int):
    """`wanted` of the lines, evenly spaced; all lines if there are fewer."""
    for number, line in enumerate(read_lines(path)):
        if (number + 1) * wanted // lines > number * wanted // lines or wanted >= lines:
            yield line


def _segment_and_binarise(prefixes, pairs, models, languages, folder, options) -> bool:
    """Binarise through segmented text; return whether the dictionary is joint."""
    joint, dictionaries = options.joint, None
    if options.like is not None:
        joint = read_manifest(options.like)["joint_dictionary"]
        dictionaries = {lang: Path(options.like) / f"dict.{lang}.txt" for lang in languages}
    segmented = {subset: prefix.with_name(f"segmented.{subset}") for subset, prefix in prefixes.items()}
    for subset, prefix in prefixes.items():
        progress = Progress(f"segmenting {subset}", 2 * pairs[subset], "lines")
        for lang in languages:
            encode = models[lang].encode
            write_lines(f"{segmented[subset]}.{lang}", map(encode, progress.over(read_lines(f"{prefix}.{lang}"))))
        progress.finish()
    binarise(segmented, *languages, folder, joint=joint, dictionaries=dictionaries, workers=options.workers)
    return joint


def _move_raw(prefixes, languages, folder) -> None:
    (folder / "raw").mkdir()
    for subset, prefix in prefixes.items():
        for lang in languages:
            if subset != "train":
                Path(f"{prefix}.{lang}").rename(folder / "raw" / f"{subset}.{lang}")
