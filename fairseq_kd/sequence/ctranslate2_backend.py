"""Decoding by CTranslate2: the same beam search as fairseq's, several times faster on a CPU.

A checkpoint is converted once. The converted model stays in the user's cache folder (`core.paths.cached`); its name
holds the sha256 of the checkpoint. Weights are quantised when the model is loaded.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
import torch

from fairseq_kd.artifacts.folders import folder_in_progress
from fairseq_kd.artifacts.locks import exclusive
from fairseq_kd.artifacts.manifest import MANIFEST_NAME, check_files, hash_files, read_manifest
from fairseq_kd.artifacts.records import write_record
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.paths import cached, xdg_cache_home
from fairseq_kd.export import runtime as vocabulary
from fairseq_kd.export.runtime import (
    CannotComputeError,
    check_installed,
    is_out_of_memory,
    load_translator,
    write_model,
)
from fairseq_kd.inference.multilingual import PLAIN
from fairseq_kd.inference.opening import length_sorted
from fairseq_kd.sequence.backend import Backend
from fairseq_kd.sequence.decode_options import DecodeOptions, Hypothesis
from fairseq_kd.sequence.strategies import STRATEGIES, Strategy
from fairseq_kd.teacher.ensemble import Teachers

MAX_TOKENS = {"cpu": 1024, "cuda": 16384}
CONVERSION = 3  # increases with every change of `export` that changes a converted model


class CTranslate2Backend(Backend):
    """Beam and greedy search with one transformer. The threads of the translator share the batches."""

    name = "ctranslate2"

    def __init__(
        self,
        translator,
        task,
        dataset,
        settings: dict,
        max_tokens: int,
        max_target_positions: int,
        names=None,
        strategy: str = "beam",
    ):
        """translator: a `ctranslate2.Translator`. settings: of the strategy, see `DecodeOptions.settings`.

        names: the names of tokens with which the model was written, see `write_model`; None: `vocabulary.numbers`.
        """
        names = names or vocabulary.numbers
        super().__init__(dataset)
        self.translator = translator
        self.settings, self.max_tokens, self.max_target_positions = settings, max_tokens, max_target_positions
        self._arguments = STRATEGIES[strategy].ctranslate2_arguments(settings)
        self.eos = task.source_dictionary.eos()
        self._names = np.array(names(task.source_dictionary), dtype=object)
        self._index = vocabulary.first_ids(names(task.target_dictionary))
        self._lengths = np.asarray(dataset.src_sizes)

    def translate_filled(self, sentences: np.ndarray, advance) -> dict[int, list[Hypothesis]]:
        """See `Backend`."""
        settings, pending = self.settings, []
        for numbers in length_sorted(sentences, self._lengths, self.max_tokens):
            limit = int(settings["max_len_a"] * int(self._lengths[numbers[0]]) + settings["max_len_b"])
            limit = min(limit, self.max_target_positions - 1)
            answers = self.translator.translate_batch(
                [self._source(int(number)) for number in numbers],
                **self._arguments,
                max_decoding_length=limit,
                max_input_length=0,
                return_scores=True,
                asynchronous=True,
            )
            pending.append((numbers, answers, limit))
        found = {}
        for numbers, answers, limit in pending:
            for number, answer in zip(numbers.tolist(), answers, strict=True):
                result = result_of(answer, self.max_tokens)
                pairs = zip(result.hypotheses, result.scores, strict=True)
                found[number] = [self._hypothesis(words, score, limit) for words, score in pairs]
            advance(len(numbers))
        return found

    def _hypothesis(self, words: list[str], score: float, limit: int) -> Hypothesis:
        """A hypothesis of `limit` tokens has no EOS, and its score is not about one."""
        at_limit = len(words) >= limit
        return Hypothesis(self._ids(words), float(score), len(words) if at_limit else None, at_limit)

    def _source(self, number: int) -> list[str]:
        """Names of the tokens of a source sentence, without EOS, which the converted model adds."""
        tokens = self.dataset.src[number].numpy()
        assert tokens[-1] == self.eos, f"source {number} does not end with EOS"
        return self._names[tokens[:-1]].tolist()

    def _ids(self, words: list[str]) -> np.ndarray:
        return np.array([self._index[word] for word in words], dtype=np.int64)


def result_of(answer, max_tokens: int):
    """Wait for an answer of `Translator.translate_batch`. Raises KDError when there is not enough memory."""
    try:
        return answer.result()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise KDError(
            f"CTranslate2 ran out of memory ({error}) with batches of {max_tokens:,} tokens: give a smaller "
            "--max-tokens, or --cpu"
        ) from error


def teacher_backend(teachers: Teachers, options: DecodeOptions, device: torch.device, workers=None):
    """The backend for one teacher. Raises KDError as `open_converted` does."""
    return _backend(open_converted(teachers, options.dtype, device, workers), teachers, options, device)


def named_backend(teachers: Teachers, options: DecodeOptions, device: torch.device, workers=None):
    """The backend of --backend ctranslate2. Raises KDError as `named_translator` does."""
    translator = named_translator(teachers, options.how, options.dtype, device, workers)
    return _backend(translator, teachers, options, device)


def _backend(translator, teachers: Teachers, options: DecodeOptions, device: torch.device) -> CTranslate2Backend:
    max_tokens = options.max_tokens or MAX_TOKENS[device.type]
    limit = teachers.max_positions[1]
    settings, strategy = options.settings(), options.strategy
    return CTranslate2Backend(
        translator, teachers.task, teachers.dataset, settings, max_tokens, limit, strategy=strategy
    )


def named_translator(teachers: Teachers, strategy: Strategy, dtype: str, device: torch.device, workers=None):
    """A translator that --backend ctranslate2 has asked for. For the arguments see `load_translator`.

    Raises KDError when CTranslate2 cannot run the strategy or these models on this device, with the reason.
    """
    if why_not := reason_against(teachers, strategy):
        raise KDError(f"--backend ctranslate2 cannot do this: {why_not}; use --backend fairseq")
    try:
        return open_converted(teachers, dtype, device, workers)
    except CannotComputeError as error:
        raise KDError(f"--backend ctranslate2: {error}; or use --backend fairseq") from error


def open_converted(teachers: Teachers, dtype: str, device: torch.device, workers=None):
    """A translator with the converted model of one checkpoint. For the other arguments see `load_translator`.

    Raises KDError when it cannot be converted or loaded, and as `load_translator` does.
    """
    model = convert(teachers)
    try:
        return load_translator(model, device, dtype, workers)
    except RuntimeError as error:
        raise KDError(
            f"CTranslate2 cannot load {model} ({error}), whose files are as they were written; use --backend fairseq"
        ) from error


def reason_against(teachers: Teachers, strategy: Strategy) -> str | None:
    """Why CTranslate2 cannot run the strategy with these teachers; None when no reason is known."""
    try:
        check_installed()
    except KDError as error:
        return str(error)
    if strategy.not_by_ctranslate2:
        return strategy.not_by_ctranslate2
    if len(teachers.members) > 1:
        return "it has no ensembles"
    if teachers.members[0].layout != PLAIN:
        return "the teacher's task adds language tokens, which a converted fairseq model does not know"
    return None


def convert(teachers: Teachers) -> Path:
    """The folder of the one checkpoint as a CTranslate2 model; it is converted if the folder does not exist.

    Raises KDError when CTranslate2 has no counterpart of its architecture or of one of its options.
    """
    import ctranslate2

    path, teacher = teachers.paths[0], teachers.members[0]
    dtype = str(next(teacher.model.parameters()).dtype).removeprefix("torch.")
    name = f"{teachers.inputs.sha256(path)[:32]}-{dtype}-{CONVERSION}-{ctranslate2.__version__}"
    final = cached(f"ctranslate2/{name}", former=xdg_cache_home() / "fairseq_kd")
    if final.exists() and _damage(final) is None:
        return final
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(final, wait=True):  # by name: converted once, also by shards that begin together
            damage = _damage(final) if final.exists() else None
            if damage is not None:
                print(f"{damage}. The model is converted again", file=sys.stderr, flush=True)
            if damage is not None or not final.exists():
                _convert(teacher, final)
    except OSError as error:
        raise KDError(
            f"cannot keep the converted model in {final.parent} ({error.strerror or error}); set FAIRSEQ_KD_CACHE to "
            "a writable folder"
        ) from error
    return final


def _damage(folder: Path) -> str | None:
    """A description of the damage of a converted model, None when its files are the files that were written."""
    try:
        manifest = read_manifest(folder)
        if manifest is None or "model.bin" not in manifest.get("files", ()):
            return f"{folder} has no record of its files, so a damage would not be noticed"
        check_files(folder, manifest["files"])
    except KDError as error:
        return str(error)
    return None


def _convert(teacher, final: Path) -> None:
    shutil.rmtree(final, ignore_errors=True)  # incomplete: a killed process was removing it
    with folder_in_progress(final, lock=False) as converted:
        try:
            dictionaries = teacher.source_dictionary, teacher.target_dictionary
            write_model(teacher.model, *dictionaries, converted, names=vocabulary.numbers)
        except KDError as error:
            raise KDError(f"{teacher.path} cannot be converted ({error}); use --backend fairseq") from error
        write_record(converted / MANIFEST_NAME, {"files": hash_files(converted)})
