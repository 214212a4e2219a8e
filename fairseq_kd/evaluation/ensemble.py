"""Several checkpoints as one evaluated system: an ensemble. Each next token has the mean of their probabilities."""

from dataclasses import replace

from fairseq_kd.core.errors import KDError
from fairseq_kd.evaluation.system import System, TranslateOptions, check_lengths, load_system, open_system
from fairseq_kd.inference.frozen import FrozenModel
from fairseq_kd.inference.loading import check_same_layout
from fairseq_kd.inference.mixed import MixedModels
from fairseq_kd.loss.weights import Weighting

DICTIONARY_CHECKS = ("place", "content", "size")  # from the strongest to the weakest


class Ensemble(MixedModels):
    """The mixture of frozen models with equal weights, for `System`."""

    def __init__(self, members: list[FrozenModel]):
        super().__init__(members, Weighting())
        self.path = ":".join(member.path for member in members)

    def with_products(self, task, dtype: str) -> "Ensemble":
        """See `FrozenModel.with_products`."""
        return Ensemble([member.with_products(task, dtype) for member in self.members])

    def check_dictionaries(self, *dictionaries) -> None:
        """See `FrozenModel.check_dictionaries`."""
        for member in self.members:
            member.check_dictionaries(*dictionaries)


def open_checkpoints(
    paths: list[str], data_bin, subset: str, options: TranslateOptions, sentences: int, trusted=(), lang_pair=None
) -> System:
    """One checkpoint, or the ensemble of several, opened on a subset. For the arguments see `open_system`.

    trusted: the paths to load even if they hold code. lang_pair: see `load_pair`. Of an ensemble `updates` is the sum,
    and there is no seed.
    Raises KDError as `open_system` does, and for checkpoints of different languages.
    """
    how = {"language_tokens": True, "lang_pair": lang_pair}
    first = open_system(paths[0], data_bin, subset, options, sentences, trust=paths[0] in trusted, **how)
    if len(paths) == 1:
        return first
    others = [load_system(path, data_bin, options, trust=path in trusted, **how) for path in paths[1:]]
    systems = [first, *others]
    languages = first.frozen.languages
    for path, system in zip(paths, systems, strict=True):
        check_same_layout(path, system.frozen, paths[0], first.frozen)
        if system.frozen.languages != languages:
            raise KDError(f"{path} translates {'-'.join(system.frozen.languages)}, but {paths[0]} translates "
                          f"{'-'.join(languages)}: give checkpoints of the same languages")  # fmt: skip
    precisions = {system.autocast for system in systems}
    found = replace(
        first,
        frozen=Ensemble([system.frozen for system in systems]),
        updates=sum(system.updates for system in systems),
        seed=None,
        dictionary_check=max((system.dictionary_check for system in systems), key=DICTIONARY_CHECKS.index),
        autocast=first.autocast if len(precisions) == 1 else None,
    )
    check_lengths(found, found.dataset)
    return found
