"""A model whose task adds language tokens, as the teacher of a student without them.

A batch of the student has neither language tokens nor their entries in the dictionary. The model gets the same
sentences as its own task would build them; of its answers, those at the student's positions are taken, over the
student's dictionary, renormalised:

    p(y_t = v | y_<t, x) = p_model(v | tokens, y_<t, x) / Σ_{w in the student's dictionary} p_model(w | tokens, y_<t, x)

Each position of the student has one position of the model with the same gold token. The model's other positions, whose
gold tokens are language tokens, have no part in it.
"""

import torch

from fairseq_kd.inference.dictionaries import check_same_dictionary
from fairseq_kd.inference.frozen import FrozenModel
from fairseq_kd.inference.multilingual import PLAIN
from fairseq_kd.loss.signal import DenseSignal


class WithoutTokens(FrozenModel):
    """A `FrozenModel` for batches of --task translation. `model` stays the whole network."""

    def __init__(self, frozen: FrozenModel, source_dictionary, target_dictionary, names=("teacher", "student")):
        """The dictionaries are the student's; names: as in `check_dictionaries`.

        Raises KDError unless the dictionaries of the model begin with them.
        """
        vars(self).update(vars(frozen))
        for side, ours, theirs in (
            ("source", self.source_dictionary, source_dictionary),
            ("target", self.target_dictionary, target_dictionary),
        ):
            check_same_dictionary(ours, theirs, side, names, begins=True)
        self._pads = source_dictionary.pad(), target_dictionary.pad()
        self._bos = source_dictionary.bos(), target_dictionary.bos()
        self._types = len(target_dictionary)
        self.source_dictionary, self.target_dictionary = source_dictionary, target_dictionary
        self.own_layout, self.layout = frozen.layout, PLAIN

    @property
    def max_positions(self) -> tuple[int, int]:
        """Longest source and target, in tokens with EOS and without the language tokens, that the model accepts."""
        sources, targets = super().max_positions
        return sources - self._added_to_source, targets - self._inserted

    @property
    def _added_to_source(self) -> int:
        return int(self.language_tokens[0] is not None and not self.own_layout.replaces) + int(self.own_layout.bos)

    @property
    def _inserted(self) -> int:
        """The number of tokens between the first input of the decoder and the first token of the sentence."""
        layout = self.own_layout
        begins = self.language_tokens[1] is not None and not layout.at_end and not layout.replaces
        return int(begins or layout.bos)

    @torch.no_grad()
    def signal(self, sample, keep: torch.Tensor, temperature: float = 1.0) -> DenseSignal:
        """As `FrozenModel.signal`, for a batch without language tokens, over the student's dictionary."""
        net_input = dict(sample["net_input"])
        source, previous = net_input["src_tokens"], net_input["prev_output_tokens"]
        net_input["src_tokens"] = self._source(source)
        net_input["src_lengths"] = net_input["src_lengths"] + self._added_to_source
        net_input["prev_output_tokens"] = self._previous(previous)
        if self._inserted:
            keep = torch.cat([keep.new_zeros(len(keep), 1), keep], dim=1)
        found = super().signal({"net_input": net_input}, keep, temperature)
        if found.vocabulary == self._types:
            return found
        if found.projection is not None:
            return DenseSignal(found.features, found.projection[: self._types], temperature)
        return DenseSignal(found.features[:, : self._types].log_softmax(dim=-1), None, temperature)

    def _source(self, tokens: torch.Tensor) -> torch.Tensor:
        """Source tokens (B, S), padded on one side, with the tokens of the task."""
        pad, layout, language = self._pads[0], self.own_layout, self.language_tokens[0]
        if layout.bos:
            tokens = _before_first(tokens, self._bos[0], pad)
        if language is None:
            return tokens
        if not layout.at_end and not layout.replaces:
            return _before_first(tokens, language, pad)
        if layout.at_end:
            tokens = torch.cat([tokens, tokens.new_full((len(tokens), 1), pad)], dim=1)
        last = _last(tokens, pad) + int(layout.at_end)
        return tokens.scatter(1, last.unsqueeze(1), language)

    def _previous(self, tokens: torch.Tensor) -> torch.Tensor:
        """Inputs of the decoder (B, T), which begin with EOS, as the task makes them."""
        pad, layout, language = self._pads[1], self.own_layout, self.language_tokens[1]
        first = _first(tokens, pad).unsqueeze(1)  # (B, 1)
        eos = tokens.gather(1, first)[:1, 0]
        replaced = language is not None and (layout.at_end or layout.replaces)
        if replaced:
            tokens = tokens.scatter(1, first, language)
        if not self._inserted:
            return tokens
        inserted = self._bos[1] if layout.bos else language
        begin = language if replaced else int(eos)
        return _before_first(tokens.scatter(1, first, inserted), begin, pad)


def _first(tokens: torch.Tensor, pad: int) -> torch.Tensor:
    """The place of the first token of each row that is not padding, (B,)."""
    return tokens.ne(pad).int().argmax(dim=1)


def _last(tokens: torch.Tensor, pad: int) -> torch.Tensor:
    """The place of the last token of each row that is not padding, (B,)."""
    return tokens.size(1) - 1 - tokens.ne(pad).flip(1).int().argmax(dim=1)


def _before_first(tokens: torch.Tensor, token: int, pad: int) -> torch.Tensor:
    """Each row with one more token before its first one."""
    wider = torch.cat([tokens.new_full((len(tokens), 1), pad), tokens], dim=1)
    return wider.scatter(1, _first(tokens, pad).unsqueeze(1), token)
