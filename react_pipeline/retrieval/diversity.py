"""Diversity: of the candidates of a class, those that represent many others come first.

That is the order of `choose: diverse`. Shapes: N candidates of a class, D width.

One objective rewards both fit and difference, as in COBRA (arXiv 2412.17684): each candidate counts
with its place in the order, times its cosine with the chosen image that is most like it (facility
location). Of images that are alike one covers the others, so the next choice is another kind of
image.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

_POOL = 4
"""The best candidates of a class that are considered, as a multiple of the cap."""


def diverse_order(
    candidates: pd.DataFrame, vectors: Callable[[pd.Series], NDArray[np.float32]], cap: int
) -> pd.DataFrame:
    """The candidates, those of each class in the order in which they add most; classes keep their
    places.

    Args:
        candidates: The best first: columns class_id, row, dropped.
        vectors: Gives the unit image vectors (N, D) of rows (N,).
        cap: Pairs wanted of a class.
    """
    order = np.arange(len(candidates))
    alive = (candidates["dropped"] == "").to_numpy()
    for of_class in candidates.groupby("class_id").indices.values():
        pool = of_class[alive[of_class]][: _POOL * cap]
        if len(pool) > cap:
            images = vectors(candidates["row"].iloc[pool])
            order[pool] = pool[_by_gain(images @ images.T, cap)]
    return candidates.iloc[order].reset_index(drop=True)


def _by_gain(cosines: NDArray[np.float32], size: int) -> NDArray[np.int64]:
    """Positions (N,) of candidates with these cosines (N, N): those wanted, the best first, then
    the others.
    """
    count = len(cosines)
    weights = 1 - np.arange(count) / count
    covered = np.zeros(count)
    chosen: list[int] = []
    for _ in range(size):
        gains = weights @ np.maximum(cosines - covered[:, None], 0)
        gains[chosen] = -1
        chosen.append(int(gains.argmax()))
        covered = np.maximum(covered, cosines[:, chosen[-1]])
    return np.array([*chosen, *np.setdiff1d(np.arange(count), chosen)], np.int64)
