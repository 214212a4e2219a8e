"""What identifies the raw text of a study, found before anything runs."""

from fairseq_kd.corpus import datasets
from fairseq_kd.corpus.manifest import sha256_file
from fairseq_kd.errors import KDError
from fairseq_kd.study.spec import Spec


def raw_hashes(spec: Spec) -> dict | None:
    """File name -> sha256 of the user's own text, or size where `prepare` knows the corpus; None without files.

    Raises KDError when files are missing, or the named corpus in `raw` is not the official one.
    """
    data = spec.sections["data"]
    name, raw = data["name"], data.get("raw")
    if name == "synthetic" and raw is not None:
        raise KDError(f"{spec.path}: raw has no effect with the synthetic corpus: it is generated")
    if name == "multi30k" and raw is not None:
        datasets.multi30k_files(*spec.languages, raw)
    if name != "text":
        return (
            None
            if raw is None
            else {path.name: path.stat().st_size for path in sorted(datasets.existing_folder(raw).iterdir())}
        )
    if raw is None:
        raise KDError(f"{spec.path}: data lacks 'raw', the folder with your files (or give --raw)")
    stems = _stems(data)
    files = datasets.text_files(raw, *spec.languages, stems)
    return {path.name: sha256_file(path) for pair in files.values() for path in (pair.source, pair.target)}


def _stems(data: dict) -> dict | None:
    if not {"train", "valid", "test"} <= set(data):
        return None
    tests = data["test"] if isinstance(data["test"], list) else [data["test"]]
    named = {f"test{number or ''}": stem for number, stem in enumerate(tests)}
    return {"train": data["train"], "valid": data["valid"]} | named
