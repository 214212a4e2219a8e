"""Token ids of a data-bin as detokenised text."""

from collections.abc import Callable
from dataclasses import dataclass

from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus.subword import subword_decoder
from fairseq_kd.sequence.selection_options import reads_source_text, reads_text


@dataclass(frozen=True)
class Texts:
    """post_process: the kind of the subwords. symbols, decode: of the source side and of the target side.

    Where nothing reads the text of sources, their `decode` is None.
    """

    post_process: str
    symbols: tuple[list[str], list[str]]
    decode: tuple[Callable[[str], str] | None, Callable[[str], str]]

    def source(self, tokens) -> str:
        """The text of token ids without EOS."""
        return self._text(0, tokens)

    def target(self, tokens) -> str:
        """The text of token ids without EOS."""
        return self._text(1, tokens)

    def _text(self, side: int, tokens) -> str:
        symbols = self.symbols[side]
        return self.decode[side](" ".join(symbols[token] for token in tokens))


def open_texts(data_bin, teachers, options, post_process: str | None) -> Texts | None:
    """The texts of a data-bin; None where neither selection nor filters read text.

    post_process: the kind of the subwords, for a data-bin of plain fairseq-preprocess.
    Raises KDError for a data-bin whose subwords cannot become text, and for `post_process` without an effect.
    """
    if not reads_text(options):
        if post_process is not None:
            raise KDError(
                f"--post-process {post_process} has no effect without --select closest, or another selection or "
                "filter that reads text"
            )
        return None
    task = teachers.task
    source = None
    if reads_source_text(options):
        _, source = subword_decoder(data_bin, task.cfg.source_lang, post_process)
    kind, target = subword_decoder(data_bin, task.cfg.target_lang, post_process)
    return Texts(kind, (task.source_dictionary.symbols, task.target_dictionary.symbols), (source, target))
