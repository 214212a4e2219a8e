"""The data of a study: languages and sizes of the data-bins on which its models are evaluated.

They are read from the data-bins that the commands of the plan name, so it does not matter which stage made them.
"""

from dataclasses import dataclass
from pathlib import Path

from fairseq_kd.artifacts.data_bin import language_pairs, sentences
from fairseq_kd.artifacts.manifest import read_manifest
from fairseq_kd.study.plan import Plan
from fairseq_kd.study.report.rows import Study
from fairseq_kd.study.report.words import language

USUAL = ("train", "valid", "test")
EXISTING = "@existing/"
NAMES = {"synthetic": "the embedded corpus", "text": "own text"}


@dataclass(frozen=True)
class Data:
    """languages: (source, target). sizes: subset -> sentence pairs, empty while they are not known."""

    name: str
    languages: tuple
    sizes: dict

    def direction(self) -> str:
        """The languages as text."""
        return " to ".join(map(language, self.languages))

    def short(self) -> str:
        """Languages, corpus and size of the training set."""
        size = f" ({self.sizes['train']:,} training pairs)" if "train" in self.sizes else ""
        return ", ".join(filter(None, [self.direction(), self.name])) + size

    def describe(self) -> str:
        """One line: languages, corpus and sizes."""
        sizes = ", ".join(f"{subset} {size:,}" for subset, size in self.sizes.items())
        about = f"{self.direction()}, {self.name}" if self.name else self.direction()
        return f"{about}: {f'{sizes} sentence pairs' if sizes else 'sizes are not known yet'}"


def read_data(plan: Plan, study: Study, work: Path) -> list[Data]:
    """The data of all evaluations without noise, each once; several where a factor changes the data.

    Raises KDError when a data-bin is damaged.
    """
    subsets = list(dict.fromkeys([*USUAL, *(on.partition("@")[0] for on in study.sets)]))
    stages = [
        plan.stages[stage]
        for cell in plan.cells.values()
        for on, stage in cell["results"].items()
        if on == on.partition("@")[0]
    ]
    existing = plan.as_dict().get("existing", {})
    folders = dict.fromkeys(_folder(stage.command[2], work, existing) for stage in stages)
    found = [_read(plan, folder, subsets) for folder in folders]
    found = found or [_read(plan, None, subsets)]
    unique = {data.describe(): data for data in found}
    return list(unique.values())


def _folder(word: str, work: Path, existing: dict) -> Path:
    """The folder that a word of a planned command names. existing: NAME -> {"path"}, for the words @existing/NAME."""
    if word.startswith(EXISTING):
        return Path(existing[word.removeprefix(EXISTING)]["path"])
    return Path(work) / word.removeprefix("@/")


def _read(plan: Plan, folder: Path | None, subsets: list) -> Data:
    options = plan.spec.sections["data"]
    languages = options.get("source-lang"), options.get("target-lang")
    name = options.get("name", "")
    name = NAMES.get(name, name)
    if folder is None or not folder.is_dir():
        return Data(name, tuple(code or "?" for code in languages), {})
    manifest = read_manifest(folder) or {}
    if None in languages:
        languages = (language_pairs(folder) or [("?", "?")])[0]
    known = {subset: entry.get("pairs") for subset, entry in manifest.get("subsets", {}).items()}
    sizes = {subset: known.get(subset) or _count(folder, subset, languages) for subset in subsets}
    return Data(name or folder.name, tuple(languages), {subset: size for subset, size in sizes.items() if size})


def _count(folder: Path, subset: str, languages: tuple) -> int | None:
    """The number of sentences in a data-bin without a manifest; None where it has no such subset."""
    side = folder / f"{subset}.{'-'.join(languages)}.{languages[1]}"
    return sentences(side) if side.with_name(f"{side.name}.idx").is_file() else None
