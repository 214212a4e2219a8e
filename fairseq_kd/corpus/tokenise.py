"""Tokenised text, by sacremoses: the Python port of the Moses tokeniser that the usual IWSLT14 data are made with."""

from fairseq_kd.errors import KDError


class Tokenise:
    """A function from a line to its tokens between spaces, with Moses' escapes (&apos; and so on)."""

    def __init__(self, lang: str, lower: bool):
        """lang: two-letter code; a language that Moses has no rules for is tokenised as English is.

        Raises KDError when sacremoses is not installed.
        """
        try:
            from sacremoses import MosesTokenizer
        except ImportError as error:
            raise KDError(
                "tokenised text needs sacremoses (pip install 'fairseq_kd[moses]'); `--form cased` does without"
            ) from error
        self._tokenizer, self._lower = MosesTokenizer(lang), lower

    def __call__(self, line: str) -> str:
        """The tokens of one line."""
        tokens = self._tokenizer.tokenize(line, return_str=True)
        return tokens.lower() if self._lower else tokens
