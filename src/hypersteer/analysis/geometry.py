"""The geometry of edits as numbers: projections, cosines within and between groups, silhouettes.

Shapes: N edits, F numbers of each, G groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score

COMPONENTS = 50
"""Main directions that t-SNE sees."""
PERPLEXITY = 30.0
"""Of t-SNE: neighbours that count; fewer where there are few edits."""
LEAST_FOR_TSNE = 5
SHUFFLES = 20
"""Times that the groups are dealt out at random, for comparison."""
SEEDS = 2**32
"""What scikit-learn takes as a seed is below this."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Projections:
    """Edits in two dimensions.

    Attributes:
        pca: on the two main directions.
        explained: share of the variance along each of the two.
        tsne: laid out by t-SNE; None for fewer than five edits.
    """

    pca: Float[ndarray, "N 2"]
    explained: tuple[float, float]
    tsne: Float[ndarray, "N 2"] | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Clusters:
    """How edits group.

    Attributes:
        names: of the groups.
        cosines: mean cosine similarity of edits of two groups, an edit with itself left out; NaN
            where a group has one edit.
        centred: the same after the mean of all edits is subtracted from each.
        common: share of the edits' squared length that this mean has.
        within: mean over groups of the similarity inside one; NaN where none has two edits.
        between: mean over pairs of groups.
        spread: mean distance (1 - cosine) within over that between; 1 is no clusters, 0 are points.
        silhouette: by cosine distance, from -1 to 1; None where it is not defined.
        shuffled: silhouettes with the groups dealt out at random.
    """

    names: list[str]
    cosines: Float[ndarray, "G G"]
    centred: Float[ndarray, "G G"]
    common: float
    within: float
    between: float
    spread: float
    silhouette: float | None
    shuffled: list[float]


def projections(rows: Float[ndarray, "N F"], seed: int) -> Projections:
    """Return edits in two dimensions, by PCA and by t-SNE on the main directions.

    Args:
        rows: at least three edits.
        seed: of t-SNE's layout and of the randomised PCA.
    """
    state = seed % SEEDS
    count = min(COMPONENTS, len(rows) - 1, rows.shape[1])
    pca = PCA(n_components=count, svd_solver="randomized", random_state=state)
    reduced = pca.fit_transform(rows)
    shares = [*pca.explained_variance_ratio_.tolist(), 0.0][:2]
    plane = np.zeros((len(rows), 2))
    plane[:, : min(2, count)] = reduced[:, :2]
    tsne = None
    if len(rows) >= LEAST_FOR_TSNE:
        neighbours = min(PERPLEXITY, (len(rows) - 1) / 3)
        layout = TSNE(perplexity=neighbours, init="pca", random_state=state)
        tsne = np.asarray(layout.fit_transform(reduced), dtype=np.float64)
    return Projections(pca=plane, explained=(shares[0], shares[1]), tsne=tsne)


def clusters(
    rows: Float[ndarray, "N F"], groups: Int[ndarray, " N"], names: Sequence[str], seed: int
) -> Clusters:
    """Return how edits group, with the groups dealt out at random for comparison.

    Args:
        rows: edits.
        groups: group of each, from 0.
        names: of the groups.
        seed: of the dealing.
    """
    unit = unit_rows(rows)
    cosines = mean_cosines(unit, groups, len(names))
    mean = rows.mean(0, dtype=np.float64)
    squares = float((rows.astype(np.float64) ** 2).sum(1).mean())
    inside = np.diag(cosines)
    within = float(np.nanmean(inside)) if not np.isnan(inside).all() else float("nan")
    between = float(cosines[~np.eye(len(names), dtype=bool)].mean())
    generator = np.random.default_rng(seed)
    distances = cosine_distances(unit)
    dealt = [generator.permutation(groups) for _ in range(SHUFFLES)]
    found = [silhouette(distances, one) for one in (groups, *dealt)]
    return Clusters(
        names=list(names),
        cosines=cosines,
        centred=mean_cosines(unit_rows(rows - mean), groups, len(names)),
        common=float(mean @ mean) / squares if squares else float("nan"),
        within=within,
        between=between,
        spread=(1 - within) / (1 - between) if between < 1 else float("nan"),
        silhouette=found[0],
        shuffled=[value for value in found[1:] if value is not None],
    )


def unit_rows(rows: Float[ndarray, "N F"]) -> Float[ndarray, "N F"]:
    """Return rows of length 1; zeros stay zeros."""
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return rows / np.maximum(lengths, 1e-12)


def mean_cosines(
    unit: Float[ndarray, "N F"], groups: Int[ndarray, " N"], count: int
) -> Float[ndarray, "G G"]:
    """Return the mean cosine of all pairs of edits of two groups, none of an edit and itself.

    The sum over pairs is the product of two sums, so no pair is ever formed. NaN where there is no
    pair.
    """
    sums = np.zeros((count, unit.shape[1]))
    np.add.at(sums, groups, unit)
    own = np.bincount(groups, (unit * unit).sum(1), minlength=count)
    sizes = np.bincount(groups, minlength=count).astype(np.float64)
    totals = sums @ sums.T - np.diag(own)
    pairs = np.outer(sizes, sizes) - np.diag(sizes)
    return np.divide(totals, pairs, out=np.full_like(totals, np.nan), where=pairs > 0)


def cosine_distances(unit: Float[ndarray, "N F"]) -> Float[ndarray, "N N"]:
    """Return 1 - cosine of every two rows of length 1, in float32."""
    small = unit.astype(np.float32)
    distances = np.clip(1 - small @ small.T, 0, 2)
    np.fill_diagonal(distances, 0)
    return distances


def silhouette(distances: Float[ndarray, "N N"], groups: Int[ndarray, " N"]) -> float | None:
    """Return the mean silhouette; None for a single group, or as many groups as edits."""
    if not 2 <= len(np.unique(groups)) <= len(groups) - 1:
        return None
    return float(silhouette_score(distances, groups, metric="precomputed"))
