"""Data and search of a task with language tokens (`multilingual`).

A task puts language tokens into batches. They are ordinary target tokens there: fairseq's cross-entropy counts them.
The search of the task begins or ends with them, and they are no part of a translation.
"""

import numpy as np
import torch
from fairseq.data import AppendTokenDataset, FairseqDataset, PrependTokenDataset
from fairseq.data.transform_eos_lang_pair_dataset import TransformEosLangPairDataset
from fairseq.tasks import FairseqTask
from fairseq.tasks.translation_from_pretrained_bart import TranslationFromPretrainedBARTTask

from fairseq_kd.inference.multilingual import BART, MASK, PLAIN, STYLES, added_tokens, layout_of, multilingual_task


class _Options:
    """`task.args` of a task that only has `task.cfg`. An attribute that the task sets itself takes precedence."""

    def __get__(self, task, kind=None):
        return self if task is None else task.cfg


def give_bart_its_options() -> None:
    """Let translation_from_pretrained_bart load data. Can be called again.

    The task reads `self.args`, which fairseq 0.12 no longer sets: it stops with an AttributeError. Later versions of
    fairseq set it.
    """
    if not hasattr(TranslationFromPretrainedBARTTask, "args"):
        TranslationFromPretrainedBARTTask.args = _Options()


def language_ids(task) -> frozenset[int]:
    """The target ids of all symbols that the task adds: language tokens, the mask, and <s> with --prepend-bos.

    Empty for a task without language tokens.
    """
    if layout_of(task.cfg) == PLAIN:
        return frozenset()
    listed = task.cfg.langs.split(",") if type(task.cfg.langs) is str else task.cfg.langs
    style = STYLES[layout_of(task.cfg).style]
    dictionary = task.target_dictionary
    found = {dictionary.index(symbol) for symbol in (*map(style.format, listed), MASK)}
    return frozenset(found - {dictionary.unk()} | ({dictionary.bos()} if layout_of(task.cfg).bos else set()))


class PairsWithTokens(FairseqDataset):
    """One language pair of such a task.

    Items, batches and sizes are those of the task, with language tokens. src and tgt are the sentences as they are
    stored, without them; added: the number of tokens that the task adds to a source.
    """

    def __init__(self, pairs):
        """pairs: a LanguagePairDataset of the task, or TransformEosLangPairDataset around one."""
        inner = pairs.dataset if isinstance(pairs, TransformEosLangPairDataset) else pairs
        self.pairs = pairs
        self.src, self.added = _stored(inner.src)
        self.tgt = None if inner.tgt is None else _stored(inner.tgt)[0]
        self.src_sizes, self.tgt_sizes = inner.src_sizes, inner.tgt_sizes

    def __getitem__(self, index):
        return self.pairs[index]

    def __len__(self):
        return len(self.pairs)

    def collater(self, samples, **options):
        """A batch of the task."""
        return self.pairs.collater(samples, **options)


def _stored(dataset) -> tuple:
    """(the dataset inside wrappers that add one token each, the number of wrappers)."""
    added = 0
    while isinstance(dataset, AppendTokenDataset | PrependTokenDataset):
        dataset, added = dataset.dataset, added + 1
    return dataset, added


def load_subset(task, subset: str, combine: bool = False) -> None:
    """Load a subset into the task as its own evaluation does. combine: see `load_dataset` of fairseq's tasks.

    Raises FileNotFoundError when the subset is missing.
    """
    name = multilingual_task(task.cfg)
    if name is None:
        task.load_dataset(subset, combine=combine)
        return
    if name == BART:
        task.load_dataset(subset, combine=combine)
        task.datasets[subset] = PairsWithTokens(task.datasets[subset])
        return
    manager, cfg = task.data_manager, task.cfg
    source, target = cfg.source_lang, cfg.target_lang
    pairs = manager.load_a_dataset(
        split=subset,
        data_path=cfg.data,
        src=source,
        src_dict=manager.get_source_dictionary(source),
        tgt=target,
        tgt_dict=manager.get_target_dictionary(target),
        combine=combine,
        data_category="main",
        langtok_spec=cfg.langtoks["main"],
    )
    task.datasets[subset] = PairsWithTokens(pairs)


def sources_for_search(task, tokens: list[torch.Tensor], sizes: np.ndarray):
    """A dataset of sources that the task can translate. tokens: with EOS. sizes: of the tokens.

    It gives the batches of `load_subset`, also with --prepend-bos, which fairseq-interactive leaves out.
    """
    layout = layout_of(task.cfg)
    if layout.bos:
        bos = task.source_dictionary.bos()
        tokens = [torch.cat([row.new_full((1,), bos), row]) for row in tokens]
    found = task.build_dataset_for_inference(tokens, sizes + int(layout.bos))
    if layout == PLAIN:
        return found
    pairs = found.dataset if isinstance(found, TransformEosLangPairDataset) else found
    lengths = np.array([len(pairs.src[number]) for number in range(len(sizes))], dtype=np.int64)
    pairs.src_sizes = pairs.sizes = lengths
    dataset = PairsWithTokens(found)
    dataset.added = int(lengths[0] - sizes[0]) if len(sizes) else 0
    return dataset


def build_search(task, models: list, search):
    """The task's sequence generator, which begins and ends as the task's own does.

    translation_from_pretrained_bart would ignore options of sampling, so its generator is built by the base class.
    """
    if multilingual_task(task.cfg) != BART:
        return task.build_generator(models, search)
    ends = {"eos": added_tokens(task)[1]}
    return FairseqTask.build_generator(task, models, search, extra_gen_cls_kwargs=ends)


def not_in_text(task, generator) -> frozenset[int]:
    """What fairseq-generate leaves out of a hypothesis, for a task with language tokens: the ends and the prefix."""
    if layout_of(task.cfg) == PLAIN:
        return frozenset()
    dictionary = task.target_dictionary
    return frozenset(generator.symbols_to_strip_from_output) | {dictionary.bos(), dictionary.eos()}
