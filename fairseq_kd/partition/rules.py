"""The rules by which a corpus is divided: one registered object per rule.

A rule sees the sentences of the training set and gives each of them a part. Then it says to which part
the sentences of other subsets belong.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from fairseq_kd.core.errors import KDError
from fairseq_kd.partition.groups import divide_groups, generator, whole_groups
from fairseq_kd.partition.options import ALPHA, TOPICS, PartitionOptions
from fairseq_kd.partition.sentences import Sentences
from fairseq_kd.partition.shares import apportion, deal, deal_groups, dirichlet
from fairseq_kd.partition.topics import TopicModel, check_packages
from fairseq_kd.partition.vocabulary import RareWords

RULES: dict[str, "Rule"] = {}
Place = Callable[[str, Sentences], np.ndarray]  # name of a subset, its sentences -> part of each, from 0


class Rule:
    """A rule. name, summary and source are for the user. defaults: the options that it uses, with their defaults.

    needs_words: whether it needs words, so that subwords are not enough. needs_domains: whether it needs labels.
    """

    name = summary = source = ""
    defaults: dict = {}  # noqa: RUF012
    needs_words = needs_domains = False

    def settle(self, options: PartitionOptions) -> PartitionOptions:
        """The options with the defaults of the rule. Raises KDError for an option that has no effect on it."""
        for name in ("alpha", "seed", "topics", "min_sentences"):
            if name not in self.defaults and getattr(options, name) is not None:
                raise KDError(f"--{name.replace('_', '-')} has no effect with --by {self.name}: leave it out")
        given = {name: value for name in self.defaults if (value := getattr(options, name)) is not None}
        return replace(options, **(self.defaults | given))

    def divide(self, train: Sentences, options: PartitionOptions, domains: dict) -> tuple[np.ndarray, Place, dict]:
        """(part of each training sentence from 0, where other subsets belong, what it found, for the manifest).

        options: settled. domains: subset -> labels of its sentences. Raises KDError when the parts cannot be made.
        """
        raise NotImplementedError


def register(rule: type[Rule]) -> type[Rule]:
    """Add a rule to RULES."""
    RULES[rule.name] = rule()
    return rule


class BySize(Rule):
    """Rules that decide the sizes of the parts; the sentences are drawn at random."""

    def sizes(self, total: int, options: PartitionOptions, rng: np.random.Generator) -> np.ndarray:
        """The number of sentences of each part."""
        raise NotImplementedError

    def divide(self, train, options, domains):
        """Sizes, then a random division; other subsets get the same shares."""
        rng = generator(options.seed, self.name)
        counts = self.sizes(len(train), options, rng)

        def place(subset: str, sentences: Sentences) -> np.ndarray:
            wanted = apportion(len(sentences), counts / counts.sum())
            return deal(wanted, generator(options.seed, self.name, subset))

        return deal(counts, rng), place, {}


@register
class Uniform(BySize):
    """See `summary`."""

    name = "uniform"
    summary = "parts of equal sizes, sentences drawn at random"
    source = "independent and identically distributed parts, the control of every study"
    defaults = {"seed": 1}  # noqa: RUF012

    def sizes(self, total, options, rng):
        """Equal, or different by one."""
        return apportion(total, np.full(options.parts, 1 / options.parts))


@register
class Quantity(BySize):
    """See `summary`."""

    name = "quantity"
    summary = "sizes drawn from Dirichlet(alpha), sentences drawn at random"
    source = "Li et al. 2022 (NIID-Bench), quantity skew"
    defaults = {"seed": 1, "alpha": ALPHA, "min_sentences": 1}  # noqa: RUF012

    def sizes(self, total, options, rng):
        """Each part has the minimum, and the Dirichlet shares divide the other sentences."""
        least = options.min_sentences
        return least + apportion(total - options.parts * least, dirichlet(options.alpha, options.parts, rng))


@register
class Length(Rule):
    """See `summary`."""

    name = "length"
    summary = "bands of source length in subwords, equal numbers of sentences; part 1 has the shortest"
    source = "bands by quantiles; no draw: equal lengths go by their position in the corpus"

    def divide(self, train, options, domains):
        """Sort by length, cut. A sentence of another subset is in the first band whose longest is not shorter."""
        lengths = train.lengths["source"]
        order = np.argsort(lengths, kind="stable")
        parts, longest = np.zeros(len(train), dtype=np.int64), []
        for part, members in enumerate(np.array_split(order, options.parts)):
            parts[members] = part
            longest.append(int(lengths[members[-1]]))

        def place(subset: str, sentences: Sentences) -> np.ndarray:
            return np.minimum(np.searchsorted(longest, sentences.lengths["source"]), options.parts - 1)

        return parts, place, {"longest": longest}


@register
class Topic(Rule):
    """See `summary`."""

    name = "topic"
    summary = "topics of the source words by TF-IDF and k-means; each topic is divided by Dirichlet(alpha)"
    source = "label skew of Hsu et al. 2019, as FedML draws it, with topics in the place of labels"
    defaults = {"seed": 1, "alpha": ALPHA, "min_sentences": 1, "topics": None}  # noqa: RUF012
    needs_words = True

    def settle(self, options):
        """As many topics as parts at least, so that each part can have its own."""
        check_packages()
        options = super().settle(options)
        return replace(options, topics=options.topics or max(TOPICS, options.parts))

    def divide(self, train, options, domains):
        """Fit topics, then divide them. Other subsets: the topic of the sentence, then the shares of its parts."""
        seed = int(generator(options.seed, self.name, "k-means").integers(2**31))
        model = TopicModel(train.words["source"], options.topics, seed)
        topics = model.topics_of(train.words["source"])
        parts, table = divide_groups(topics, options.topics, self.name, options)

        def place(subset: str, sentences: Sentences) -> np.ndarray:
            found = model.topics_of(sentences.words["source"])
            return deal_groups(found, table, generator(options.seed, self.name, subset))

        labels = [" ".join(words) for words in model.describe()]
        return parts, place, {"groups": labels, "sentences_of_groups": table.tolist()}


@register
class VocabularyRule(Rule):
    """See `summary`."""

    name = "vocabulary"
    summary = "sentences with the same rare source words stay together, equal sizes"
    source = "our own: linear deterministic greedy (Stanton & Kliot 2012) on rare words; no draw"
    needs_words = True

    def divide(self, train, options, domains):
        """See `vocabulary`."""
        rare = RareWords(train.words["source"])
        parts = rare.divide(options.parts)
        return parts, lambda subset, sentences: rare.place(sentences.words["source"], parts, options.parts), {}


@register
class DomainFile(Rule):
    """See `summary`."""

    name = "domain-file"
    summary = "--domains FILE has a label per sentence; whole domains, or with --alpha Dirichlet shares of each"
    source = "the user's labels; with --alpha label skew as in topic"
    defaults = {"seed": None, "alpha": None, "min_sentences": None}  # noqa: RUF012
    needs_domains = True

    def settle(self, options):
        """Without alpha nothing is drawn."""
        if options.alpha is not None:
            return replace(
                options, seed=1 if options.seed is None else options.seed, min_sentences=options.min_sentences or 1
            )
        for name in ("seed", "min_sentences"):
            if getattr(options, name) is not None:
                raise KDError(f"--{name.replace('_', '-')} has no effect with --by {self.name} without --alpha")
        return options

    def divide(self, train, options, domains):
        """Divide the domains, in the order of their names."""
        names = sorted(set(domains["train"]))
        numbers = {name: number for number, name in enumerate(names)}
        groups = np.array([numbers[label] for label in domains["train"]])
        if options.alpha is None:
            parts, table = whole_groups(groups, len(names), options.parts)
        else:
            parts, table = divide_groups(groups, len(names), self.name, options)

        def place(subset: str, sentences: Sentences) -> np.ndarray:
            unknown = sorted(set(domains[subset]) - set(names))
            if unknown:
                raise KDError(
                    f"--domains: the labels of {subset} have {unknown[0]!r}, which no training sentence has, so no "
                    f"part has this domain; the training set has {', '.join(names[:10])}"
                )
            found = np.array([numbers[label] for label in domains[subset]], dtype=np.int64)
            return deal_groups(found, table, generator(options.seed or 0, self.name, subset))

        return parts, place, {"groups": names, "sentences_of_groups": table.tolist()}
