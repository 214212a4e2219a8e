"""The topic of each sentence: TF-IDF of its source words, latent semantic analysis, k-means; all by scikit-learn."""

import importlib.util
import warnings

import numpy as np

from fairseq_kd.core.errors import KDError
from fairseq_kd.core.progress import Progress
from fairseq_kd.partition.words import Words

LEAST, MOST = 2, 0.1  # a word counts that is in at least 2 sentences, and in at most a tenth of them
LARGEST_VOCABULARY = 50_000  # the most frequent words
DIMENSIONS = 100  # of latent semantic analysis; with fewer words it is left out
FITTED_ON = 100_000  # sentences at most, drawn at random
BLOCK = 50_000  # sentences at a time
STARTS = 5  # of k-means, the best one counts
NAMED_BY = 5  # words that describe a topic


def check_packages() -> None:
    """Raises KDError when scikit-learn is not installed."""
    if importlib.util.find_spec("sklearn") is None:
        raise KDError("--by topic needs scikit-learn, which is not installed: pip install 'fairseq_kd[collaboration]'")


class TopicModel:
    """Topics that were fitted on the words of a training set.

    One thread computes, so that the number of cores does not change the order of sums. Raises KDError when the words
    do not make as many topics.
    """

    def __init__(self, words: Words, topics: int, seed: int):
        from sklearn.feature_extraction.text import TfidfTransformer

        self.vocabulary, self.topics = words.vocabulary, topics
        self.columns = _columns(words)
        if not (self.columns >= 0).any() or len(words) < topics:
            raise KDError(
                f"--topics {topics}: {len(words):,} sentences with {int((self.columns >= 0).sum()):,} words that are "
                "in several of them, but not in most of them, make no topics: give fewer --topics or another rule"
            )
        self._tfidf, self._project = TfidfTransformer(sublinear_tf=True), None
        rng = np.random.default_rng(seed)
        chosen = np.sort(rng.permutation(len(words))[:FITTED_ON])
        with _one_thread():
            self._fit(self._counts(words)[chosen], seed)

    def _fit(self, counts, seed: int) -> None:
        from sklearn.cluster import KMeans
        from sklearn.decomposition import TruncatedSVD
        from sklearn.exceptions import ConvergenceWarning

        self._tfidf.fit(counts)
        if counts.shape[1] > DIMENSIONS and counts.shape[0] > DIMENSIONS:
            self._project = TruncatedSVD(DIMENSIONS, random_state=seed).fit(self._tfidf.transform(counts))
        self._k_means = KMeans(self.topics, n_init=STARTS, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # fewer topics than asked: an error follows
            found = self._k_means.fit_predict(self._vectors(counts))
        if (different := len(np.unique(found))) < self.topics:
            raise KDError(
                f"--topics {self.topics}: the sentences differ in so few words that they make only {different} topics: "
                "give fewer --topics or another rule"
            )

    def topics_of(self, words: Words) -> np.ndarray:
        """The topic of each sentence, int64 (sentences,)."""
        counts, progress = self._counts(words), Progress("topics", len(words), "sentences")
        found = [np.zeros(0, dtype=np.int64)]
        with _one_thread():
            for start in range(0, len(words), BLOCK):
                found.append(self._k_means.predict(self._vectors(counts[start : start + BLOCK])).astype(np.int64))
                progress.advance(len(found[-1]))
        progress.finish()
        return np.concatenate(found)

    def describe(self) -> list[list[str]]:
        """For each topic the words whose weight in its centre is the most above their mean weight in all centres."""
        centres = self._k_means.cluster_centers_ - self._k_means.cluster_centers_.mean(axis=0)
        if self._project is not None:
            centres = self._project.inverse_transform(centres)
        names = np.array(self.vocabulary, dtype=object)[np.argsort(self.columns, kind="stable")[-centres.shape[1] :]]
        first = [np.argsort(-centre, kind="stable")[:NAMED_BY] for centre in centres]
        return [list(names[order[centre[order] > 0]]) for centre, order in zip(centres, first, strict=True)]

    def _counts(self, words: Words):
        """How often each word that counts is in each sentence: sparse (sentences, columns)."""
        from scipy.sparse import csr_matrix

        columns = self.columns[words.ids]
        kept = columns >= 0
        shape = (len(words), int(self.columns.max()) + 1)
        ones = np.ones(int(kept.sum()), dtype=np.float64)
        return csr_matrix((ones, (words.sentences()[kept], columns[kept])), shape=shape)

    def _vectors(self, counts) -> np.ndarray:
        """Vectors of length 1, (sentences, dimensions); 0 for a sentence without a word that counts."""
        from sklearn.preprocessing import normalize

        vectors = self._tfidf.transform(counts)
        return normalize(vectors.toarray() if self._project is None else self._project.transform(vectors))


def _columns(words: Words) -> np.ndarray:
    """The column of each word of the vocabulary, -1 for a word that does not count: int64 (vocabulary,)."""
    found = words.in_sentences()
    candidates = np.flatnonzero((found >= LEAST) & (found <= MOST * len(words)))
    chosen = np.sort(candidates[np.argsort(-found[candidates], kind="stable")][:LARGEST_VOCABULARY])
    columns = np.full(len(found), -1, dtype=np.int64)
    columns[chosen] = np.arange(len(chosen))
    return columns


def _one_thread():
    from threadpoolctl import threadpool_limits

    return threadpool_limits(limits=1)
