"""The pipeline of REACT: the stages of the core, in the order of the data.

A row says what there is one of, the function that makes it, and what it is made from. Extensions
add rows of their own (`extension`). Does not belong here: what a row means (`stage`), how a stage
is built (the function that its `step` calls).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from react_pipeline import (
    clip,
    corpus,
    embedding,
    evaluation,
    indexing,
    labelled,
    promotion,
    retrieval,
    training,
)
from react_pipeline.extension import Extension
from react_pipeline.project import Project, identity, outside
from react_pipeline.settings import CorpusConfig, EvaluationSetConfig, Method
from react_pipeline.stage import (
    BASE_CHECKPOINT,
    COMPARISON,
    CONTROL_SET,
    CORPUS,
    CORPUS_EMBEDDINGS,
    CUSTOMIZED_CHECKPOINT,
    DOMAIN_RESULTS,
    EVALUATION_SET,
    FAISS_INDEX,
    FEW_SHOT_SET,
    PROMOTION,
    RETRIEVAL_CHECKPOINT,
    RETRIEVED_SET,
    Stage,
    model_parents,
)


class Core(Extension):
    """What every project has."""

    def stages(self) -> Iterable[Stage]:
        """The lineage from the corpus to the verdict on a domain's models."""
        return STAGES_OF_CORE

    def methods(self) -> Iterable[Method]:
        """REACT's own method."""
        return (training.GatedImage(),)

    def corpus_kinds(self) -> Iterable[type[CorpusConfig]]:
        """Tars of images and captions."""
        return (corpus.Webdataset,)

    def labelled_kinds(self) -> Iterable[type[EvaluationSetConfig]]:
        """A folder for each class, or a table."""
        return labelled.FolderOfClasses, labelled.Manifest


def _parents_of_training(method: Method) -> tuple[str, ...]:
    return (BASE_CHECKPOINT, *method.parents, method.pairs)


def _parents_of_results(method: Method) -> tuple[str, ...]:
    return (*model_parents(method), EVALUATION_SET)


def _identity_of_results(project: Project, key: str) -> dict[str, Any]:
    added = evaluation.added_metrics()
    return identity.domain_results(project, key) | ({"metrics": added} if added else {})


# A room loads a function when it is first used: the lambdas keep torch and FAISS out of this table.
STAGES_OF_CORE = (
    Stage(
        CORPUS,
        "the image-text pairs that everything is retrieved from",
        "all",
        step=lambda project: corpus.publish_corpus(project),
        identity=identity.corpus,
        outside=outside.of_corpus,
        version="3",
        priority=90,
    ),
    Stage(
        BASE_CHECKPOINT,
        "the CLIP to customize, and the baseline for every result",
        "all",
        step=lambda project: clip.publish_base(project),
        identity=lambda project, _: identity.encoder(project.config.encoder),
        outside=lambda project, _: outside.of_encoder(project, project.config.encoder),
        priority=90,
    ),
    Stage(
        RETRIEVAL_CHECKPOINT,
        "the CLIP that retrieves; only with `retrieval_encoder`, else it is the base",
        "all",
        step=lambda project: clip.publish_retrieval(project),
        identity=lambda project, _: identity.encoder(project.config.retrieves_with),
        outside=lambda project, _: outside.of_encoder(project, project.config.retrieves_with),
        priority=90,
    ),
    Stage(
        CORPUS_EMBEDDINGS,
        "a vector of every caption of the corpus, and of every image unless images wait",
        "all",
        step=lambda project: embedding.embed_corpus(project),
        parents=(CORPUS, RETRIEVAL_CHECKPOINT),
        identity=identity.corpus_embeddings,
        version="3",
        pool="gpu",
        priority=85,
    ),
    Stage(
        FAISS_INDEX,
        "the search index over these vectors, with its measured recall",
        "all",
        step=lambda project: indexing.build_index(project),
        parents=(CORPUS_EMBEDDINGS,),
        identity=identity.faiss_index,
        thresholds=identity.recalls,
        version="3",
        priority=85,
    ),
    Stage(
        EVALUATION_SET,
        "labelled images, only measured with and never trained on",
        "domain",
        step=lambda project, slug: labelled.publish_evaluation_set(project, slug),
        reads_domain=True,
        identity=identity.evaluation_set,
        outside=lambda project, slug: outside.of_labelled(project, project.domain(slug).evaluation),
        priority=80,
    ),
    Stage(
        RETRIEVED_SET,
        "the pairs that the class names found in the corpus",
        "domain",
        step=lambda project, slug: retrieval.retrieve_pairs(project, slug),
        parents=(
            CORPUS,
            RETRIEVAL_CHECKPOINT,
            CORPUS_EMBEDDINGS,
            FAISS_INDEX,
            EVALUATION_SET,
        ),
        reads_domain=True,
        identity=identity.retrieved_set,
        thresholds=identity.starving,
        version="2",
        pool="gpu",
        priority=75,
    ),
    Stage(
        CONTROL_SET,
        "as many random pairs, the control of the experiment",
        "domain",
        step=lambda project, slug: retrieval.draw_control(project, slug),
        parents=(
            CORPUS,
            RETRIEVAL_CHECKPOINT,
            CORPUS_EMBEDDINGS,
            RETRIEVED_SET,
            EVALUATION_SET,
        ),
        reads_domain=True,
        identity=identity.control_set,
        version="6",
        pool="gpu",
        priority=70,
    ),
    Stage(
        FEW_SHOT_SET,
        "a few labelled pictures of each class to train on; only for methods that use them",
        "domain",
        step=lambda project, slug: retrieval.publish_few_shot_set(project, slug),
        parents=(RETRIEVAL_CHECKPOINT, EVALUATION_SET),
        reads_domain=True,
        identity=identity.few_shot_set,
        outside=lambda project, slug: outside.of_labelled(project, project.domain(slug).shots),
        pool="gpu",
        priority=70,
    ),
    Stage(
        CUSTOMIZED_CHECKPOINT,
        "one training: its losses, and the model",
        "trained",
        step=lambda project, slug, method: training.customize(project, slug, method),
        parents=(BASE_CHECKPOINT, FEW_SHOT_SET, RETRIEVED_SET, CONTROL_SET),
        parents_of_method=_parents_of_training,
        reads_domain=True,
        identity=identity.customized_checkpoint,
        version="4",
        pool="gpu",
        priority=50,
    ),
    Stage(
        DOMAIN_RESULTS,
        "zero-shot accuracy on the labelled images, with what the training cost",
        "method",
        step=lambda project, slug, method: evaluation.evaluate(project, slug, method),
        parents=(BASE_CHECKPOINT, CUSTOMIZED_CHECKPOINT, EVALUATION_SET),
        parents_of_method=_parents_of_results,
        reads_domain=True,
        identity=_identity_of_results,
        version="4",
        pool="gpu",
        priority=60,
    ),
    Stage(
        COMPARISON,
        "all methods of the domain with the base and their controls; see dashboard.html",
        "domain",
        step=lambda project, slug: evaluation.compare(project, slug),
        gathers=(DOMAIN_RESULTS,),
        is_current=lambda project, slug: evaluation.comparison_is_current(project, slug),
        version="3",
        priority=65,
    ),
    Stage(
        PROMOTION,
        "which model is champion of the domain, and why",
        "domain",
        step=lambda project, slug: promotion.decide(project, slug),
        gathers=(DOMAIN_RESULTS,),
        is_current=lambda project, slug: promotion.promotion_is_current(project, slug),
        identity=identity.promotion,
        version="2",
        priority=65,
    ),
)
