"""From raw text to a data-bin that fairseq-train reads and that evaluation can score in plain text.

The folder holds what fairseq-preprocess makes, and beside it

    subword/         the subword model
    raw/             the sentences of the evaluation sets as they were read, both languages
    manifest.json    inputs with hashes, options, counts, versions, and the sha256 of every other file
"""

import tempfile
from dataclasses import asdict
from pathlib import Path

from fairseq_kd.corpus.binarise import binarise, count_unknown
from fairseq_kd.corpus.datasets import SubsetFiles
from fairseq_kd.corpus.manifest import (
    MANIFEST_NAME,
    check_files,
    folder_in_progress,
    hash_files,
    library_versions,
    read_manifest,
    read_prepared,
    sha256_file,
    write_json,
)
from fairseq_kd.corpus.subword import load_subword_model, obtain_subword_models
from fairseq_kd.corpus.text import read_pairs, write_lines
from fairseq_kd.errors import KDError
from fairseq_kd.progress import Progress

FORMAT = 1


def prepare(name, files: dict[str, SubsetFiles], source_lang, target_lang, out, options, say=print, origin=None):
    """Make the data-bin `out` from the raw files of each subset and return its manifest.

    files: subset ("train", "valid", "test", ...) -> SubsetFiles. say: called with a line of progress.
    origin: how the raw text itself was made, for the manifest (generated corpora).
    A finished `out` of the same inputs and options is checked and kept.
    Raises KDError for bad input; then nothing is left under `out`.
    """
    if source_lang == target_lang:
        raise KDError(f"source and target language are both {source_lang!r}")
    out = Path(out)
    request = _describe_request(name, files, source_lang, target_lang, options, origin)
    if (finished := _finished(out, request)) is not None:
        say(f"{out} is complete and unchanged")
        return finished
    with folder_in_progress(out) as folder:
        pairs, reports = {}, {}
        for subset, paths in files.items():
            pairs[subset], report = read_pairs(
                paths.source, paths.target, rules=options.rules, training=subset == "train"
            )
            reports[subset] = report.as_dict()
            say(f"{subset} ({paths.stem}): {report.describe()}")
        train = pairs.get("train", [])
        subword = _subword_models(options, train, source_lang, target_lang, folder)
        say(f"subword model: {subword['kind']}")
        joint = _segment_and_binarise(pairs, subword, source_lang, target_lang, folder, options)
        _write_raw(pairs, source_lang, target_lang, folder)
        subsets = {
            subset: {
                "corpus_name": files[subset].stem,
                "pairs": len(pairs[subset]),
                "unknown_tokens": count_unknown(folder, subset, source_lang, target_lang),
                "cleaning": reports[subset],
            }
            for subset in pairs
        }
        for subset, found in subsets.items():
            if any(found["unknown_tokens"].values()):
                say(f"{subset}: tokens that are not in the dictionary: {found['unknown_tokens']}")
        manifest = {
            "format": FORMAT,
            "kind": "data-bin",
            "request": request,
            "source_lang": source_lang,
            "target_lang": target_lang,
            "subsets": subsets,
            "subword": {"kind": subword["kind"], "files": subword["files"]},
            "joint_dictionary": joint,
            "versions": library_versions(),
            "files": hash_files(folder),
        }
        write_json(folder / MANIFEST_NAME, manifest)
    say(f"wrote {out}")
    return manifest


def _describe_request(name, files, source_lang, target_lang, options, origin) -> dict:
    described = asdict(options)
    del described["workers"]  # changes nothing in the result
    for key in ("subword_model", "like"):
        if described[key] is not None:
            path = Path(described[key]) / MANIFEST_NAME if key == "like" else Path(described[key])
            if not path.is_file():
                raise KDError(f"--{key.replace('_', '-')}: {path} is not there")
            described[key] = sha256_file(path)
    return {
        "name": name,
        "languages": [source_lang, target_lang],
        "options": described,
        "origin": origin,
        "inputs": {
            subset: {"corpus_name": f.stem, "sha256": [sha256_file(f.source), sha256_file(f.target)]}
            for subset, f in files.items()
        },
    }


def _finished(out: Path, request: dict) -> dict | None:
    if not out.exists():
        return None
    manifest = read_manifest(out)
    if manifest is None and out.is_dir() and not any(out.iterdir()):
        return None
    if manifest is None:
        raise KDError(f"{out} exists and was not made by `fairseq-kd prepare`; choose another --out")
    if manifest.get("request") != request:
        raise KDError(
            f"{out} was made from other inputs or options (see its {MANIFEST_NAME}); choose another --out or remove it"
        )
    check_files(out, manifest["files"])
    return manifest


def _subword_models(options, train, source_lang, target_lang, folder) -> dict:
    if options.like is not None:
        models = load_subword_models(options.like, source_lang, target_lang)
        manifest = read_manifest(options.like)
        for name in {n for n in manifest["subword"]["files"].values() if n}:
            (folder / "subword").mkdir(exist_ok=True)
            (folder / "subword" / name).write_bytes((Path(options.like) / "subword" / name).read_bytes())
        return {"kind": manifest["subword"]["kind"], "files": manifest["subword"]["files"], "models": models}
    text = {source_lang: [s for s, _ in train], target_lang: [t for _, t in train]}
    models, names = obtain_subword_models(
        options.subword, text, options.vocab_size, options.joint, options.subword_model, folder / "subword"
    )
    return {"kind": options.subword, "files": names, "models": models}


def load_subword_models(data_bin, source_lang, target_lang) -> dict:
    """Language -> subword model of a data-bin made by `prepare`. Raises KDError when it is not one."""
    manifest = read_prepared(data_bin)
    if manifest is None:
        raise KDError(f"{data_bin} has no {MANIFEST_NAME}: it was not made by `fairseq-kd prepare`")
    check_files(data_bin, {n: h for n, h in manifest["files"].items() if n.startswith(("dict.", "subword/"))})
    names = manifest["subword"]["files"]
    for lang in (source_lang, target_lang):
        if lang not in names:
            raise KDError(f"{data_bin} is for the languages {', '.join(names)}, not {lang!r}")
    kind = manifest["subword"]["kind"]
    return {
        lang: load_subword_model(kind, names[lang] and Path(data_bin) / "subword" / names[lang])
        for lang in (source_lang, target_lang)
    }


def _segment_and_binarise(pairs, subword, source_lang, target_lang, folder, options) -> bool:
    """Binarise through segmented text in a temporary folder; return whether the dictionary is joint."""
    joint, dictionaries = options.joint, None
    if options.like is not None:
        joint = read_manifest(options.like)["joint_dictionary"]
        dictionaries = {lang: Path(options.like) / f"dict.{lang}.txt" for lang in (source_lang, target_lang)}
    with tempfile.TemporaryDirectory(prefix="fairseq_kd-") as scratch:
        prefixes = {}
        for subset, subset_pairs in pairs.items():
            prefixes[subset] = Path(scratch) / subset
            progress = Progress(f"segmenting {subset}", 2 * len(subset_pairs), "lines")
            for side, lang in enumerate((source_lang, target_lang)):
                encode = subword["models"][lang].encode
                lines = (encode(pair[side]) for pair in subset_pairs)
                write_lines(f"{prefixes[subset]}.{lang}", progress.over(lines))
            progress.finish()
        binarise(
            prefixes,
            source_lang,
            target_lang,
            folder,
            joint=joint,
            dictionaries=dictionaries,
            workers=options.workers,
        )
    return joint


def _write_raw(pairs, source_lang, target_lang, folder) -> None:
    (folder / "raw").mkdir()
    for subset, subset_pairs in pairs.items():
        if subset != "train":
            write_lines(folder / "raw" / f"{subset}.{source_lang}", (source for source, _ in subset_pairs))
            write_lines(folder / "raw" / f"{subset}.{target_lang}", (target for _, target in subset_pairs))
