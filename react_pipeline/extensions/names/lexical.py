"""Retrieval by words: the captions that say a name of a class, ranked by their likeness to its
prompts.

Source: REAL (Parashar et al. 2024, arXiv 2401.12425). Does not belong here: how words are compared
(`name_counts`). Shapes: Q prompts, D width.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from react_pipeline.embedding import Vectors
from react_pipeline.extensions.names.name_counts import equal_names, said_in_corpus
from react_pipeline.retrieval import likeness, mean_vectors
from react_pipeline.settings import RetrievalConfig
from react_pipeline.store import Artifact, Scratch

SAID = "said.npy"
"""File of a scratch: which captions say which names."""


def named_prompts(prompts: pd.DataFrame) -> pd.DataFrame:
    """Return the first prompt of each name of a class."""
    return prompts[prompts["name"] != ""].drop_duplicates(["class_id", "name"])


def lexical_hits(
    embeddings: Artifact,
    prompts: pd.DataFrame,
    vectors: Vectors,
    settings: RetrievalConfig,
    scratch: Scratch,
) -> pd.DataFrame:
    """Return the hits of mode `lexical`: captions that say a name of a class, nearest to the mean
    of its prompts first; `k_per_prompt` for each prompt.

    Args:
        prompts: From `prompts.class_prompts`.
        vectors: Of the prompts (Q, D).
        scratch: Where the captions that say names are kept, and may be already.

    Returns:
        Columns query (the first prompt of the name that is said), row, similarity, rank, mode,
        class_id.
    """
    named = named_prompts(prompts)
    names = named["name"].tolist()

    def write(path: Path) -> None:
        np.save(path, said_in_corpus(embeddings, [names])[0])

    rows, said = np.load(scratch.keep(SAID, write))
    queries = named.assign(query=named.index, said=equal_names(names))[
        ["query", "class_id", "said"]
    ]
    hits = pd.DataFrame({"row": rows, "said": said}).merge(queries, on="said")
    hits = hits.sort_values("query", kind="stable").drop_duplicates(["class_id", "row"])
    means = mean_vectors(prompts["class_id"], vectors)
    hits["similarity"] = likeness(embeddings, hits, means, side="text")
    hits = hits.iloc[np.lexsort((hits["row"], -hits["similarity"]))]
    hits["rank"] = hits.groupby("class_id").cumcount()
    most = settings.k_per_prompt * prompts.groupby("class_id").size()
    hits = hits[hits["rank"] < hits["class_id"].map(most)]
    mode = np.full(len(hits), settings.modes.index("lexical"), np.int8)
    return hits.drop(columns="said").assign(
        mode=pd.Categorical.from_codes(mode, list(settings.modes))
    )
