"""Identity: the part of the configuration that decides an artifact, stage by stage.

A field that only changes speed or memory is in none of these; thresholds of checks have functions
of their own. Does not belong here: content outside the store, which a step digests itself.
"""

from pathlib import Path
from typing import Any

from react_pipeline.extension import joined
from react_pipeline.project.outside import seed_digests
from react_pipeline.project.project import Project
from react_pipeline.project.review import review_identity, takedown_identity
from react_pipeline.settings import SPEED_FIELDS, DomainConfig, EncoderConfig


def corpus(project: Project, _key: str) -> dict[str, Any]:
    """Return the fields that decide which images the corpus has, as its kind says."""
    return project.config.corpus.identity()


def encoder(config: EncoderConfig) -> dict[str, Any]:
    """Return the fields of an encoder."""
    encoder = config.model_dump(mode="json")
    # A checkpoint on disk is identified by its bytes (the content of the inputs), not by where it
    # is.
    if encoder["pretrained"] and Path(encoder["pretrained"]).is_absolute():
        encoder["pretrained"] = "local"
    return encoder


def corpus_embeddings(project: Project, _key: str) -> dict[str, Any]:
    """Return the fields that decide the vectors; the rest of `embedding` is speed."""
    corpus = project.config.corpus.model_dump(
        mode="json", include={"max_pixels", "max_caption_chars"}
    )
    if project.config.corpus.is_listed:
        corpus["encode"] = "captions" if project.config.images_wait else "both"
        if not project.config.images_wait:
            corpus |= project.config.corpus.identity_of_images()
    return {"precision": project.config.embedding.precision, **corpus}


RECALLS, STARVING = {"min_recall", "min_recall_100"}, {"max_starving_fraction"}
"""Fields that only checks read: of the index, and of retrieval."""


def recalls(project: Project, _key: str) -> dict[str, Any]:
    """Return the recall that the check of the index requires."""
    return project.config.index.model_dump(mode="json", include=RECALLS)


def starving(project: Project, slug: str) -> dict[str, Any]:
    """Return how many classes may starve."""
    return project.retrieval(slug).model_dump(mode="json", include=STARVING)


def faiss_index(project: Project, _key: str) -> dict[str, Any]:
    """Return the fields that decide the kind of index."""
    index = project.config.index.model_dump(mode="json", exclude={*RECALLS, "train_on"})
    # Ready indices are identified by their bytes (the content of the inputs), not by where they
    # are.
    return {**index, "ready": project.config.corpus.ready_indices is not None}


def classes(project: Project, slug: str) -> dict[str, Any]:
    """Return the names, synonyms and prompts of a domain."""
    domain = project.domain(slug)
    # Seed images are searched with, so they matter to retrieval only.
    fields = {"classes": {"__all__": {"name", "id", "synonyms"}}}
    return {**domain.wording, **domain.model_dump(mode="json", include=fields, exclude_none=True)}


def evaluation_set(project: Project, slug: str) -> dict[str, Any]:
    """Return the labelled set of a domain."""
    return labelled_set(project.domain(slug))


def labelled_set(domain: DomainConfig) -> dict[str, Any]:
    """Return a labelled set and the classes that its labels are joined with."""
    described = None if domain.evaluation is None else domain.evaluation.identity()
    return {"evaluation": described, "classes": domain.class_names}


def few_shot_set(project: Project, slug: str) -> dict[str, Any]:
    """Return the pictures to learn from, and what they must not show."""
    near = project.retrieval(slug).near_duplicate_similarity
    described = labelled_set(project.domain(slug).with_shots)
    return {**described, "near_duplicate_similarity": near, **_kept_out(project, slug)}


def retrieved_set(project: Project, slug: str) -> dict[str, Any]:
    """Return the names, prompts, seeds, settings of retrieval, and what is kept out."""
    settings = project.retrieval(slug)
    seeds = {}
    if settings.uses_seeds:
        seeds = seed_digests(project.config.domains, project.domain(slug))
    fields = settings.model_dump(mode="json", exclude=STARVING)
    return {
        **classes(project, slug),
        **fields,
        "seeds": seeds,
        **_kept_out(project, slug),
        **review_identity(project, slug),
        **project.config.corpus.identity_of_images(),
    }


def control_set(project: Project, slug: str) -> dict[str, Any]:
    """Return the fields that decide a random draw of the same size."""
    fields = {"near_duplicate_similarity", "shard_pairs"}
    settings = project.retrieval(slug).model_dump(mode="json", include=fields)
    seeds = {"seed": project.seed(slug), "further_seeds": list(project.config.seeds[1:])}
    images = project.config.corpus.identity_of_images()
    return {**settings, **seeds, **_kept_out(project, slug), **images}


def _kept_out(project: Project, slug: str) -> dict[str, Any]:
    """Return what is kept out besides the images of the domain's own evaluation set."""
    settings = project.retrieval(slug)
    kept_out: dict[str, Any] = takedown_identity(project)
    kept_out |= settings.model_dump(mode="json", include={"same_subject", "where"})
    if settings.decontaminate == "own":
        return kept_out
    others = {
        key: project.store.pointer("evaluation_set", key)
        for key in other_evaluation_sets(project, slug)
    }
    tests = sorted(joined(lambda extension: extension.test_digests(project, slug)))
    return {"evaluation_sets": others, "test_sets": tests, **kept_out}


def other_evaluation_sets(project: Project, slug: str) -> list[str]:
    """Return the other domains whose evaluation set is published, sorted."""
    domains = {file.stem for file in project.config.domains.glob("*.yaml")} - {slug}
    return [key for key in project.store.keys("evaluation_set") if key in domains]


def customized_checkpoint(project: Project, key: str) -> dict[str, Any]:
    """Return the fields of training that change its result, not those of speed."""
    slug, name = key.split("/")
    method = project.method(name)
    chosen = project.training(slug, name)
    ignored = SPEED_FIELDS | (frozenset({"steps"}) if chosen.epochs else frozenset())
    ignored |= method.unused_fields
    training = chosen.model_dump(mode="json", exclude=set(ignored), exclude_none=True)
    own = {**method.identity, **(classes(project, slug) if method.by_class else {})}
    return {"method": name, **training, **own}


def domain_results(project: Project, key: str) -> dict[str, Any]:
    """Return the fields that decide a measurement, apart from its checkpoint."""
    slug, method = key.split("/")
    evaluation = project.domain(slug).evaluation
    squash = evaluation is not None and evaluation.squash
    return {"method": method, "squash": squash, **classes(project, slug)}


def nothing(_project: Project, _key: str) -> dict[str, Any]:
    """Return no fields, for stages that follow from their parents alone."""
    return {}


def promotion(project: Project, _key: str) -> dict[str, Any]:
    """Return the rule of promotion."""
    return project.config.promotion.model_dump(mode="json")
