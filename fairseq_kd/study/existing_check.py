"""Checks of the artefacts that a study takes as they are, before anything runs.

Raises KDError with the file of the spec and the key at fault. What the manifests do not show, such as a damaged block
of a cache, is found by the stage that reads the artefact.
"""

from pathlib import Path

from fairseq_kd.artifacts.data_bin_check import read_dictionary
from fairseq_kd.artifacts.manifest import MANIFEST_NAME, read_manifest
from fairseq_kd.core.errors import KDError, prefixed_errors
from fairseq_kd.study.existing import Existing, names_of_several
from fairseq_kd.study.key import RawText, parts_of
from fairseq_kd.study.spec import Spec

NEEDED_SUBSETS = ("train", "valid")


class ExistingCheck:
    """Checks each artefact once, adds it to `existing`, and returns its word for planned commands."""

    def __init__(self, spec: Spec, existing: Existing):
        self.spec, self.existing = spec, existing
        self._words, self._models = {}, {}  # what was checked -> its word; word of a teacher -> options of its model

    @property
    def _languages(self) -> tuple[str, str]:
        return tuple(self.spec.sections["data"][f"{side}-lang"] for side in ("source", "target"))

    def data_bin(self, settings: dict) -> str:
        """The data-bin of `data`: formats, sides, dictionaries, and for evaluated subsets the text that is scored."""
        path, evaluate = settings["data"]["data-bin"], settings["evaluate"]
        key = "data-bin", path, str(evaluate)
        if key not in self._words:
            with prefixed_errors(f"{self.spec.path}: data-bin in data"):
                self._open(path, NEEDED_SUBSETS)
            names = {file.name.partition(".")[0] for file in Path(path).glob("*.idx")}
            for subset in evaluate["subsets"]:
                RawText(tuple(sorted(names)), None).check_subset(self.spec.path, subset)
                with prefixed_errors(f"{self.spec.path}: evaluate"):
                    self._check_text(path, subset, evaluate)
            self._words[key] = self.existing.add("data-bin", path)
        return self._words[key]

    def _open(self, path, subsets) -> None:
        from fairseq_kd.artifacts.data_bin import check_trainable
        from fairseq_kd.inference.opening import open_data

        for subset in subsets:
            open_data(path, self._languages, subset)
            impl = self.spec.sections["common"].get("dataset-impl")
            check_trainable(path, subset, self._languages, impl, combine=subset == "train")

    def _check_text(self, path, subset: str, evaluate: dict) -> None:
        from fairseq_kd.evaluation.segments import read_segments
        from fairseq_kd.inference.opening import open_data

        found = len(read_segments(path, subset, evaluate.get("reference"), evaluate.get("post-process")).references)
        if found != (count := len(open_data(path, self._languages, subset).dataset(subset))):
            raise KDError(
                f"there are {found} references, but subset {subset!r} of {path} has {count} sentences, so they cannot "
                "be compared: give the references of this subset as reference, or other subsets"
            )

    def teacher(self, path: str, data_bin: str, settings: dict) -> str:
        """A checkpoint: it can be read and built, and its languages and dictionaries are those of the data.

        data_bin: the word for the data-bin. If the study makes it, dictionaries are compared by the stages.
        """
        key = "teacher", path, data_bin
        if key not in self._words:
            data = self.existing.of(data_bin)
            with prefixed_errors(f"{self.spec.path}: checkpoint in teacher"):
                model = self._read_teacher(path, data and data["path"])
            self._words[key] = self.existing.add("teacher", path)
            self._models[self._words[key]] = model
        return self._words[key]

    def _read_teacher(self, path: str, data_bin: str | None):
        """The options of the teacher's model."""
        from fairseq_kd.inference.checkpoint import read_checkpoint
        from fairseq_kd.inference.frozen import build_model, configure_own_task, data_folder
        from fairseq_kd.inference.supported import check_configuration

        state = read_checkpoint(path)
        check_configuration(path, state["cfg"])
        task, recorded = state["cfg"].task, data_folder(state["cfg"].task)
        source, target = self._languages
        languages = (task.get("source_lang") or source, task.get("target_lang") or target)
        if languages != self._languages:
            raise KDError(
                f"{path} translates {'-'.join(languages)}, the data are {'-'.join(self._languages)}: give a teacher of "
                "these languages"
            )
        if data_bin is not None:
            self._check_dictionaries(path, state, recorded, data_bin)
            configure_own_task(path, state, data=data_bin, languages=languages, data_option="data-bin")
            build_model(path, state)
        return state["cfg"].model

    def _check_dictionaries(self, path: str, state: dict, recorded: str, data_bin: str) -> None:
        """Compare the dictionaries by content where those of the training still exist, else by their sizes."""

        from fairseq_kd.inference.dictionaries import check_same_dictionary

        parts = (("source", "encoder"), ("target", "decoder"))
        for (side, part), lang in zip(parts, self._languages, strict=True):
            here, own = (Path(folder) / f"dict.{lang}.txt" for folder in (data_bin, recorded))
            dictionary = read_dictionary(here)
            if own.is_file():
                check_same_dictionary(read_dictionary(own), dictionary, side, (path, data_bin))
            weight = state["model"].get(f"{part}.embed_tokens.weight")
            if weight is not None and weight.shape[0] != len(dictionary):
                raise KDError(
                    f"{path} has embeddings for {weight.shape[0]:,} {side} entries, {here} has {len(dictionary):,}: "
                    "teacher and data need the same dictionaries; give the data-bin of the teacher's training"
                )

    def cache(self, folder: str, data_bin: str, teacher: str, temperature: float) -> str:
        """A complete cache of this teacher on these data, with this temperature."""
        from fairseq_kd.cache.reader import CacheReader

        key = "cache", folder, data_bin, teacher, temperature
        if key not in self._words:
            with prefixed_errors(f"{self.spec.path}: folder in cache"):
                reader = CacheReader(folder, check_hashes=False)
                self._check_origin(f"the cache {folder}", reader.manifest, data_bin, teacher)
                reader.tail_column(float(temperature))
            self._words[key] = self.existing.add("cache", folder)
        return self._words[key]

    def decoded(self, folder: str, data_bin: str, teacher: str, settings: dict) -> str:
        """A data-bin of `fairseq-kd decode` by this teacher from these data, or from text like these data."""
        from fairseq_kd.core.paths import check_data_bin
        from fairseq_kd.sequence.decode import KIND

        key = "decoded", folder, data_bin, teacher
        if key not in self._words:
            with prefixed_errors(f"{self.spec.path}: data-bin in decode"):
                check_data_bin(folder)
                manifest = read_manifest(folder) or {}
                if manifest.get("kind") != KIND:
                    raise KDError(
                        f"{folder} was not made by fairseq-kd decode (the manifest says {manifest.get('kind')!r}), so "
                        "nothing shows which teacher made its targets: give a data-bin of fairseq-kd decode"
                    )
                self._check_origin(f"the distilled data-bin {folder}", manifest, data_bin, teacher)
                self._open(folder, NEEDED_SUBSETS)
            self._words[key] = self.existing.add("data-bin", folder)
        return self._words[key]

    def source_text(self, files, like: str) -> list[str]:
        """The words for files of monolingual text. like: the word for the data-bin whose form the text gets."""
        from fairseq_kd.corpus.like import read_like
        from fairseq_kd.corpus.source_text import check_text_files

        files = files if isinstance(files, list) else [files]
        key = "text", tuple(files), like
        if key not in self._words:
            with prefixed_errors(f"{self.spec.path}: decode"):
                if (data := self.existing.of(like)) is not None:
                    read_like(data["path"])
                check_text_files(files)
                words = [self.existing.add("text", file) for file in files]
                if repeated := [file for file, word in zip(files, words, strict=True) if words.count(word) > 1]:
                    raise KDError(
                        f"--source-text: {' and '.join(repeated)} have the same content, so each of their lines would "
                        "count once: leave out all but one"
                    )
            self._words[key] = words
        return self._words[key]

    def _check_origin(self, what: str, manifest: dict, data_bin: str, teacher: str) -> None:
        """Raises KDError unless the manifest names this teacher and these data, by their contents.

        The manifest of data that were made from text has the hash of one file of the data: of their manifest.
        """
        data, checkpoints = self.existing.of(data_bin), [self.existing.of(one) for one in parts_of(teacher)]
        if data is None or None in checkpoints:
            made = "data" if data is None else "teacher"
            raise KDError(
                f"{what} cannot belong to the {made} of every cell, because the study makes the {made} itself: give "
                "checkpoint in teacher and data-bin in data, and no noise, or leave this path out"
            )
        if manifest["subset"] != "train":
            raise KDError(f"{what} is of subset {manifest['subset']!r}, the students are trained on 'train'")
        if manifest["teacher"]["sha256"] not in names_of_several([one["files"][""] for one in checkpoints]):
            paths = ":".join(one["path"] for one in checkpoints)
            raise KDError(
                f"{what} was made by {manifest['teacher']['path']}, which is not the content of {paths}: "
                "give the teacher that made it, or leave this path out"
            )
        made_from = manifest["data"] if "data" in manifest else {MANIFEST_NAME: manifest["source_text"]["like"]}
        if different := [name for name, sha256 in made_from.items() if data["files"].get(name) != sha256]:
            raise KDError(
                f"{what} was made from another {different[0]} than the one in {data['path']}: give the data-bin from "
                "which it was made, or leave this path out"
            )
