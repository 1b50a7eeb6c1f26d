"""A kind of corpus, a method and a stage: installed with pip, Dagster, MLflow and all commands know
them.
"""

from pathlib import Path
from typing import Any, ClassVar, Literal

from react_pipeline.corpus import ShardedCorpus, publish_pairs
from react_pipeline.extension import Extension
from react_pipeline.extensions.methods import HeadMethod
from react_pipeline.lineage import resolve
from react_pipeline.project import Project, find_files
from react_pipeline.settings import LocalNames
from react_pipeline.stage import Stage
from react_pipeline.store import Artifact, Scratch, sha256_of


class NamedPhotos(ShardedCorpus):
    """A corpus of photos whose file names are their captions."""

    kind: Literal["named-photos"] = "named-photos"
    photos: LocalNames
    file_fields: ClassVar[tuple[str, ...]] = ("photos",)

    def identity(self) -> dict[str, Any]:
        return {"kind": self.kind}

    def sources(self) -> list[Path]:
        return find_files(self.photos, (".jpg", ".png"), "corpus.photos")

    def publish(self, project: Project) -> Artifact:
        files = self.sources()
        pairs = ((path.stem, path.read_bytes(), path.stem.encode(), {}) for path in files)
        return publish_pairs(project, [[path.name, sha256_of(path)] for path in files], pairs)


class ClassMeans(HeadMethod):
    """A head without training: the mean image of each class's pairs."""

    name = "class-means"
    summary = "the mean vector of the pairs of each class"

    def fit(self, samples, training, log):
        from react_pipeline.clip import ClassHead  # not at the top: it loads torch

        means = samples.zero_shot.clone()  # (D, C); a class without pairs keeps its text
        for class_id in samples.class_ids.unique().tolist():
            means[:, class_id] = samples.images[samples.class_ids == class_id].mean(dim=0)
        return ClassHead(means / means.norm(dim=0)), {"classes": means.shape[1]}


def count_captions(project: Project, slug: str) -> Artifact:
    """The step: one function that publishes one artifact."""
    inputs = resolve(project, "caption_count", slug)

    def write(folder: Path, _: Scratch) -> dict[str, int]:
        import pandas as pd  # not at the top: every command loads this module

        pairs = pd.read_parquet(inputs.parents["retrieved_set"].file("pairs.parquet"))
        (folder / "captions.txt").write_text("\n".join(sorted(pairs["caption"].unique())))
        return {"captions": int(pairs["caption"].nunique())}

    return project.store.build(inputs, write)


class MyExtension(Extension):
    """What this package adds."""

    def corpus_kinds(self):
        return (NamedPhotos,)

    def methods(self):
        return (ClassMeans(),)

    def stages(self):
        yield Stage(
            "caption_count",
            "how many different captions the pairs of a domain have",
            "domain",
            step=count_captions,
            parents=("retrieved_set",),
        )
