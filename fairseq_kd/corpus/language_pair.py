"""The languages of a data-bin. Their codes may hold hyphens and full stops: pt-BR, zh.Hans."""

import os

from fairseq_kd.corpus.manifest import read_manifest

Pair = tuple[str, str]


def language_pairs(data_bin) -> list[Pair]:
    """The pairs (source, target) that a data-bin may be for: one as a rule, none where nothing says it.

    Its manifest says it, else the names of its files, those of the training set first. fairseq's own rule cuts
    `train.en-pt-BR.en.bin` at each hyphen and then finds no pair. So the codes come from the dictionaries here
    (`dict.pt-BR.txt`), and fairseq's rule decides only where a dictionary is missing.
    Raises KDError for a damaged manifest.
    """
    manifest = read_manifest(data_bin) or {}
    if manifest.get("source_lang") and manifest.get("target_lang"):
        return [(manifest["source_lang"], manifest["target_lang"])]
    names = sorted(os.listdir(data_bin))
    languages = [name[len("dict.") : -len(".txt")] for name in names if name.startswith("dict.")]
    training = [name for name in names if name.startswith("train.")]
    return _pairs_named(training, languages) or _pairs_named(names, languages) or _pair_of_fairseq(data_bin)


def _pairs_named(names: list[str], languages: list[str]) -> list[Pair]:
    """SUBSET.SOURCE-TARGET.LANG, with the ending .bin or .idx or none."""
    found = {
        (source, target)
        for rest in {name.partition(".")[2].removesuffix(".bin").removesuffix(".idx") for name in names}
        for source in languages
        if rest.startswith(f"{source}-")
        for target in languages
        if source != target and rest in (f"{source}-{target}.{source}", f"{source}-{target}.{target}")
    }
    return sorted(found)


def _pair_of_fairseq(data_bin) -> list[Pair]:
    from fairseq.data.data_utils import infer_language_pair

    source, target = infer_language_pair(str(data_bin))
    return [(source, target)] if source and target else []
