"""Translate lines of plain text with a checkpoint or an exported folder, by the searches of `evaluate` and `export`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fairseq_kd.core.errors import KDError, prefixed_errors
from fairseq_kd.corpus.plain import PlainText, split_line, text_of_data_bin
from fairseq_kd.evaluation.system import System, TranslateOptions, load_system
from fairseq_kd.sequence.backend import Backend
from fairseq_kd.sequence.decode_options import Hypothesis

LONG_LINES = ("error", "split")


@dataclass(frozen=True)
class Translation:
    """The translation of one line.

    hypotheses: (plain text, score), best first. The score is the mean log-probability per token with the end of the
    sentence (natural logarithm; the sum divided by length^lenpen). parts: how many parts the line was split into; a
    line of several parts has one hypothesis, which joins the best ones, and the score None. at_limit: whether a
    hypothesis has the greatest length that the search allows, so that it may lack its end.
    """

    source: str
    hypotheses: list[tuple[str, float | None]]
    parts: int = 1
    at_limit: bool = False

    @property
    def text(self) -> str:
        """The best hypothesis."""
        return self.hypotheses[0][0]


@dataclass(frozen=True)
class Model:
    """An opened model. source_limit, target_limit: tokens, with EOS.

    backend: from (a dataset of sources, the number of hypotheses). dictionary_check: see `System`; None for a folder.
    """

    source_dictionary: object
    target_dictionary: object
    source_limit: int
    target_limit: int
    backend: Callable[[object, int], Backend]
    dictionary_check: str | None = None


def checkpoint_model(system: System) -> Model:
    """The model of a checkpoint, which fairseq's beam search runs."""

    def backend(dataset, nbest: int) -> Backend:
        return system.backend(dataset, nbest)

    task = system.task
    limits = min(system.source_limit(), system.options.max_tokens), system.model.max_positions()[1]
    return Model(task.source_dictionary, task.target_dictionary, *limits, backend, system.dictionary_check)


class Translator:
    """Plain text -> `Translation`, line by line in order."""

    def __init__(self, model: Model, text: PlainText, options: TranslateOptions):
        self.model, self.text, self.options = model, text, options

    def translate(
        self,
        lines: Sequence[str],
        *,
        nbest: int = 1,
        long_lines: str = "error",
        first_line: int = 1,
        advance: Callable[[int], None] = lambda count: None,
    ) -> list[Translation]:
        """The translations of lines of plain text. An empty line has the empty translation with the score 0.

        nbest: hypotheses per line, at most the beam. long_lines: "error", or "split": a line with more tokens than the
        model has positions for is translated in parts, see `corpus.plain.split_line`. first_line: the number of the
        first line, for errors. advance: called with the number of lines that were translated since the last call.
        Raises KDError for a line that is too long, and for values out of range.
        """
        check_nbest(nbest, self.options.beam)
        if long_lines not in LONG_LINES:
            raise KDError(f"--long-lines {long_lines}: must be one of {', '.join(LONG_LINES)}")
        parts = [self._parts(line, number, long_lines) for number, line in enumerate(lines, first_line)]
        sizes = [len(found) for found in parts]
        dataset = self._dataset([subwords for found in parts for subwords in found])
        found = self.model.backend(dataset, nbest).translate(np.arange(len(dataset.src_sizes)), advance)
        ends = np.cumsum(sizes).tolist()
        return [
            self._translation(line, [(int(dataset.src_sizes[n]), found[n]) for n in range(end - size, end)], nbest)
            for line, size, end in zip(lines, sizes, ends, strict=True)
        ]

    def _parts(self, line: str, number: int, long_lines: str) -> list[str]:
        """The subwords of a line, or of its parts if it is too long."""
        text = self.text.form(line)
        with prefixed_errors(f"line {number}"):
            subwords = self.text.encode(text)
        if self._fits(subwords):
            return [subwords]
        limit = self.model.source_limit
        if long_lines == "error":
            raise KDError(
                f"line {number} has {self._tokens(subwords):,} source tokens, but the model and --max-tokens allow "
                f"{limit:,}: make it shorter, or give --long-lines split, which translates such lines in parts"
            )
        return [self.text.encode(part) for part in split_line(text, lambda part: self._fits(self.text.encode(part)))]

    def _tokens(self, subwords: str) -> int:
        return len(subwords.split()) + 1  # EOS

    def _fits(self, subwords: str) -> bool:
        return self._tokens(subwords) <= self.model.source_limit

    def _dataset(self, lines: list[str]):
        """What the backends read of a fairseq dataset that has no targets."""
        from fairseq.data import LanguagePairDataset

        dictionary = self.model.source_dictionary
        tokens = [dictionary.encode_line(line, add_if_not_exist=False).long() for line in lines]
        sizes = np.array([len(ids) for ids in tokens], dtype=np.int64)
        return LanguagePairDataset(tokens, sizes, dictionary, tgt_dict=self.model.target_dictionary)

    def _translation(self, line: str, found: list[tuple[int, list[Hypothesis]]], nbest: int) -> Translation:
        """found: (source tokens, hypotheses) of each part."""
        at_limit = any(self._at_limit(size, one) for size, hypotheses in found for one in hypotheses[:nbest])
        if len(found) > 1:
            text = " ".join(filter(None, (self._plain(hypotheses[0]) for _, hypotheses in found)))
            return Translation(line, [(text, None)], len(found), at_limit)
        ((_, hypotheses),) = found
        return Translation(line, [(self._plain(one), one.score) for one in hypotheses[:nbest]], 1, at_limit)

    def _plain(self, hypothesis: Hypothesis) -> str:
        return self.text.decode(self.model.target_dictionary.string(torch.as_tensor(hypothesis.tokens)))

    def _at_limit(self, source_tokens: int, hypothesis: Hypothesis) -> bool:
        """Whether the hypothesis has the greatest length. In a batch with longer sources it may be a greater one."""
        options = self.options
        allowed = min(int(options.max_len_a * source_tokens + options.max_len_b), self.model.target_limit - 1)
        return len(hypothesis.tokens) >= allowed


def check_nbest(nbest: int, beam: int) -> None:
    """Raises KDError unless a beam of this size has so many hypotheses."""
    if nbest < 1:
        raise KDError(f"--nbest {nbest}: must be at least 1")
    if nbest > beam:
        raise KDError(f"--nbest {nbest} is more than --beam {beam}: a beam has no more hypotheses than its size")


def open_translator(
    model,
    data=None,
    options: TranslateOptions | None = None,
    *,
    subword_model=None,
    in_form: bool = False,
    dtype: str | None = None,
    trust: bool = False,
) -> Translator:
    """Open a checkpoint of fairseq-train, or a folder of `fairseq-kd export`, for translation.

    data: the data-bin with the dictionaries of a checkpoint; None for a folder. subword_model: a file, or "none", where
    the data have no subword model. in_form: the lines are in the form of the data already, see `text_of_data_bin`.
    dtype: of the computation, such as "bfloat16"; None: float32, or float16 by `options`; for a folder the dtype of its
    weights. Raises KDError for what cannot be opened.
    """
    from fairseq_kd.evaluation.exported_model import exported_model

    options = options or TranslateOptions()
    if Path(model).is_dir():
        if data is not None:
            raise KDError(f"--data has no effect with the exported folder {model}, which has its own vocabulary and "
                          "subword model: leave it out")  # fmt: skip
        return Translator(*exported_model(model, options, subword_model, in_form, dtype), options)
    if data is None:
        raise KDError(f"{model} is a checkpoint, which holds no dictionaries: the data-bin of its training is needed "
                      "(--data DATA_BIN)")  # fmt: skip
    system = load_system(model, data, options, dtype=dtype, trust=trust, data_option="--data")
    languages = (system.task.cfg.source_lang, system.task.cfg.target_lang)
    return Translator(checkpoint_model(system), text_of_data_bin(data, languages, subword_model, in_form), options)
