"""Signs: what names and corpus say of a domain before anything is trained, and `gda` tried on
held-out pairs.

Does not belong here: printing (`commands`). Shapes: N pairs, C classes, D embedding dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from react_pipeline.clip import (
    ClassHead,
    Clip,
    class_prompts,
    domain_head,
)
from react_pipeline.embedding import row_metadata, vectors_of
from react_pipeline.extensions.methods import HeadMethod, HeadSamples, nearest_class
from react_pipeline.extensions.names import domain_names, unnamed_classes
from react_pipeline.lineage import fresh
from react_pipeline.project import Project
from react_pipeline.retrieval import Preview
from react_pipeline.settings import METHODS, TrainingConfig
from react_pipeline.store import Artifact, RetrievalError

if TYPE_CHECKING:
    from torch import Tensor

FOLDS = 2


@dataclass(frozen=True)
class Tried:
    """Accuracy of `gda` on pairs that it was not fitted to, as a fraction: of the zero-shot head,
    of one fitted to retrieved pairs, and of one fitted to random pairs.
    """

    base: float
    own: float
    control: float


@dataclass(frozen=True)
class Signs:
    """Facts about a domain before a training.

    Attributes:
        tried: `gda` on held-out pairs.
        classes: One row a class: class, pairs, named (by a caption), near (the nearest name that
            captions have, "" if there is none), caption (of its best hit).
        samples: The kept pairs as a head is fitted to them, in the order of the corpus.
    """

    tried: Tried
    classes: pd.DataFrame
    samples: HeadSamples


def signs_of(project: Project, slug: str) -> Signs:
    """Search the corpus as retrieval would, and try `gda` on what it finds.

    Raises:
        MissingArtifact, StaleArtifact: If index or evaluation set have to be materialized first.
        RetrievalError: If retrieval would keep no pair.
    """
    embeddings = fresh(project, "corpus_embeddings")
    preview = Preview(project, slug)
    candidates = preview.candidates()
    kept = candidates[candidates["dropped"] == ""].sort_values("row")
    if kept.empty:
        raise RetrievalError(
            f"{slug}: retrieval would keep no pair of {len(candidates)} candidates; correct the "
            "names, or use a corpus that shows these classes"
        )
    samples = _samples(project, slug, preview.clip, embeddings, kept)
    classes = _classes(project, slug, embeddings, kept)
    return Signs(_tried(samples, embeddings, kept["row"].to_numpy()), classes, samples)


def _samples(
    project: Project, slug: str, clip: Clip, embeddings: Artifact, kept: pd.DataFrame
) -> HeadSamples:
    import torch

    domain = project.domain(slug)
    prompts = class_prompts(domain)
    rows = kept["row"].to_numpy()
    return HeadSamples(
        zero_shot=domain_head(clip, domain).contiguous(),
        images=_unit(vectors_of(embeddings, "image", rows)),
        captions=_unit(vectors_of(embeddings, "text", rows)),
        class_ids=torch.tensor(kept["class_id"].to_numpy(), dtype=torch.long),
        prompts=clip.encode_texts(prompts["prompt"].tolist()),
        prompt_ids=torch.tensor(prompts["class_id"].to_numpy(), dtype=torch.long),
    )


def _unit(vectors: NDArray[np.float32]) -> Tensor:
    import torch
    from torch.nn.functional import normalize

    return normalize(torch.from_numpy(vectors), dim=1)


def _classes(project: Project, slug: str, embeddings: Artifact, kept: pd.DataFrame) -> pd.DataFrame:
    unnamed = unnamed_classes(domain_names(project, slug), embeddings)
    classes = pd.DataFrame({"class": project.domain(slug).class_names})
    sizes = kept.groupby("class_id").size()
    classes["pairs"] = sizes.reindex(classes.index, fill_value=0)
    # Without captions no class is named.
    classes["named"] = False if unnamed is None else ~classes["class"].isin(unnamed)
    classes["near"] = classes["class"].map(unnamed or {}).fillna("")
    first = kept.loc[kept.groupby("class_id")["similarity"].idxmax()]
    texts = row_metadata(embeddings, first["row"], ["caption"])["caption"].fillna("")
    by_class = pd.Series(texts.to_numpy(), first["class_id"].to_numpy())
    classes["caption"] = by_class.reindex(classes.index, fill_value="")
    return classes


def _tried(samples: HeadSamples, embeddings: Artifact, rows: NDArray[np.int64]) -> Tried:
    """`gda` on each half of the pairs (of these rows), fitted to the other half, or to as many
    random pairs that are none of them.
    """
    import torch

    fold = (
        pd.Series(samples.class_ids.numpy()).groupby(samples.class_ids.numpy()).cumcount() % FOLDS
    )
    held_out = [torch.from_numpy((fold == number).to_numpy()) for number in range(FOLDS)]
    random = _random(samples, embeddings, rows)

    def accuracy(head: ClassHead, at: Tensor) -> float:
        right = head.scores(samples.images[at]).argmax(dim=1) == samples.class_ids[at]
        return float(right.double().mean()) if len(right) else 0.0

    zero_shot = ClassHead(samples.zero_shot)
    base = [accuracy(zero_shot, at) for at in held_out]
    of_random = zero_shot if random is None else _fit(random)
    own = [accuracy(_fit(at_positions(samples, ~at)), at) for at in held_out]
    control = [accuracy(of_random, at) for at in held_out]
    return Tried(float(np.mean(base)), float(np.mean(own)), float(np.mean(control)))


def _fit(samples: HeadSamples) -> ClassHead:
    method = METHODS["gda"]
    assert isinstance(method, HeadMethod)  # noqa: S101 - as its name says
    head, _ = method.fit(samples, TrainingConfig(), None)  # type: ignore[arg-type]  # takes no step
    return head


def at_positions(samples: HeadSamples, at: Tensor) -> HeadSamples:
    """The pairs at some positions, or where a mask is true; all prompts."""
    return HeadSamples(
        samples.zero_shot,
        samples.images[at],
        samples.captions[at],
        samples.class_ids[at],
        samples.prompts,
        samples.prompt_ids,
    )


def _random(
    samples: HeadSamples, embeddings: Artifact, rows: NDArray[np.int64]
) -> HeadSamples | None:
    """Random pairs, half as many as those of these rows and none of them, each with the class whose
    prompt is nearest to its caption, as in a control; None if the corpus has no others.
    """
    random = np.random.default_rng(0)
    drawn = random.integers(int(embeddings.counts["rows"]), size=4 * len(rows))
    others = np.setdiff1d(drawn, rows)
    if not len(others):
        return None
    chosen = random.permutation(others)[: max(len(rows) // FOLDS, 1)]
    captions = _unit(vectors_of(embeddings, "text", chosen))
    class_ids = nearest_class(captions, samples.prompts, samples.prompt_ids)
    images = _unit(vectors_of(embeddings, "image", chosen))
    return HeadSamples(
        samples.zero_shot, images, captions, class_ids, samples.prompts, samples.prompt_ids
    )
