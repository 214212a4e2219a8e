"""Shares of parts: draws from a symmetric Dirichlet distribution, and shares as whole numbers of sentences."""

import numpy as np

EQUAL_FROM = 1e16  # from this alpha on the shares differ from equal ones by less than the precision of float64 counts


def dirichlet(alpha: float, parts: int, rng: np.random.Generator) -> np.ndarray:
    """One draw from Dirichlet(alpha, ..., alpha): shares (parts,) that sum to 1.

    alpha 0 is the limit: one part has all. alpha inf is the limit: equal shares. A Gamma(alpha) variable is
    G U^(1 / alpha), with G from Gamma(alpha + 1) and U uniform (Marsaglia & Tsang 2000). Its logarithm is computed, so
    a small alpha gives no 0 / 0.
    """
    if alpha >= EQUAL_FROM:
        return np.full(parts, 1 / parts)
    log_gamma = np.log(rng.standard_gamma(alpha + 1, parts))
    log_uniform = np.log1p(-rng.random(parts))
    behind = log_uniform - log_uniform.max()  # 0 for the largest, so that a division by a tiny alpha leaves one finite
    if alpha == 0:
        return (behind == 0).astype(float)
    with np.errstate(over="ignore"):
        logs = log_gamma + behind / alpha
    shares = np.exp(logs - logs.max())
    return shares / shares.sum()


def apportion(total: int, shares: np.ndarray, before: np.ndarray | None = None) -> np.ndarray:
    """`total` sentences by shares, as whole numbers: int64, same shape, of the sum `total`.

    Each part gets its share rounded down. The remaining sentences go to the largest remainders. Equal remainders are
    served by the smallest number of sentences `before`, then by the number of the part.
    """
    exact = np.asarray(shares, dtype=float) * total
    counts = np.floor(exact).astype(np.int64)
    before = np.zeros(len(counts), dtype=np.int64) if before is None else before
    order = np.lexsort((before, -np.round(exact - counts, 9)))
    missing = total - int(counts.sum())
    if missing < 0:  # the product of a share and the total was rounded up to the next whole number
        counts[np.argmax(counts)] += missing
        return counts
    for number in range(missing):
        counts[order[number % len(order)]] += 1
    return counts


def deal(counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The part of each of sum(counts) sentences, in random order. counts: (parts,)."""
    return rng.permutation(np.repeat(np.arange(len(counts)), counts))


def share_groups(sizes: np.ndarray, alpha: float, parts: int, rng: np.random.Generator) -> np.ndarray:
    """Divide groups among parts: int64 (groups, parts), with the rows' sums `sizes`.

    The groups follow each other from the largest to the smallest, ties by number. The shares of a group are drawn from
    Dirichlet(alpha) over the parts that have fewer sentences than the mean so far (as FedML does, for parts of similar
    sizes).
    """
    total, table = int(sizes.sum()), np.zeros((len(sizes), parts), dtype=np.int64)
    for group in np.argsort(-sizes, kind="stable"):
        filled = table.sum(axis=0)
        room = np.flatnonzero(filled * parts < total)
        if len(room):  # no room is left for groups without sentences
            table[group, room] = apportion(int(sizes[group]), dirichlet(alpha, len(room), rng), filled[room])
    return table


def deal_groups(groups: np.ndarray, table: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The part of each sentence: those of a group are dealt by its row of `table`. groups: (sentences,)."""
    parts = np.zeros(len(groups), dtype=np.int64)
    for group in range(len(table)):
        members = np.flatnonzero(groups == group)
        counts = table[group]
        if len(members) and len(members) != counts.sum():
            counts = apportion(len(members), counts / counts.sum())
        parts[members] = deal(counts, rng) if len(members) else 0
    return parts
