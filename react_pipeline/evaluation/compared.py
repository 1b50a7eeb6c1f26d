"""What is shown of a comparison by pages of extensions.

Does not belong here: any page.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from react_pipeline.store import Artifact

if TYPE_CHECKING:
    import pandas as pd

    from react_pipeline.evaluation.evidence import Evidence


@dataclass(frozen=True)
class Compared:
    """The methods of one domain.

    Attributes:
        title: Of the domain, as it is now; "" if it has none.
        table: A row a method, as in `table.parquet`.
        classes: A row a method and class, as in `per_class.parquet`.
        checkpoints: By method, the trained model behind its result.
        retrieved: The pairs that the methods were trained on; None where nothing was trained on
            retrieved pairs.
        evidence: On models beside labelled images.
    """

    slug: str
    title: str
    table: pd.DataFrame
    classes: pd.DataFrame
    checkpoints: Mapping[str, Artifact]
    retrieved: Artifact | None
    evidence: Mapping[str, Evidence]
