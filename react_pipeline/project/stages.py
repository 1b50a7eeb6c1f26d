"""Stages: the one table of what is made from what.

Belongs here: for every stage its parents, the configuration that decides it, and the version of its code. Does not
belong here: whether an artifact is still what the table says (`lineage`), how a stage is built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from react_pipeline.project.project import Project
from react_pipeline.project.seed_files import seed_digests
from react_pipeline.settings import ADDED, CONTROL_SUFFIX, METHODS, SPEED_FIELDS, unused_fields
from react_pipeline.store import CURRENT, InputError

ALL = "all"
"""Key of the artifacts that belong to no domain."""


Config = Callable[[Project, str], dict[str, Any]]


@dataclass(frozen=True)
class Stage:
    """One row of the table: `parents` and `config` as functions of the key, and the version of the code."""

    code_version: str
    config: Config
    parents: Callable[[str], dict[str, str]]


def method_key(domain: str, method: str) -> str:
    """Key of an artifact that belongs to a domain and a method.

    Raises:
        InputError: If the method is unknown.
    """
    if method not in METHODS:
        raise InputError(f"unknown method {method!r}; there are {', '.join(METHODS)}")
    return f"{domain}/{method}"


def _nothing(_key: str) -> dict[str, str]:
    return {}


def _corpus(project: Project, _key: str) -> dict[str, Any]:
    corpus = project.config.corpus
    if corpus.kind == "embeddings":
        return corpus.model_dump(mode="json", include={"kind", "url_column", "caption_column"})
    if corpus.kind != "urls":
        # Named only where it is not the default, so that all other corpora stay what they are.
        return {"kind": corpus.kind, **({} if corpus.keys == "global" else {"keys": corpus.keys})}
    # What decides which images are had. More retries make another corpus: that is how failed URLs are tried again.
    fields = corpus.model_dump(mode="json", include={"kind", "url_column", "caption_column", "max_pixels"})
    private = {"allow_private_addresses": True} if corpus.download.allow_private_addresses else {}
    return {**fields, "retries": corpus.download.retries, "image_size": corpus.download.image_size, **private}


def _encoder(project: Project, _key: str) -> dict[str, Any]:
    encoder = project.config.encoder.model_dump(mode="json")
    # A checkpoint on disk is identified by its bytes (the content of the inputs), not by where it lies.
    if encoder["pretrained"] and Path(encoder["pretrained"]).is_absolute():
        encoder["pretrained"] = "local"
    return encoder


def _embedding(project: Project, _key: str) -> dict[str, Any]:
    corpus = project.config.corpus.model_dump(mode="json", include={"max_pixels", "max_caption_chars"})
    return {"precision": project.config.embedding.precision, **corpus}


def _index(project: Project, _key: str) -> dict[str, Any]:
    index = project.config.index.model_dump(mode="json", exclude={"min_recall", "min_recall_100"})
    defaults = type(project.config.index)().model_dump(mode="json")
    named = {name: value for name, value in index.items() if name not in ADDED or value != defaults[name]}
    # Ready indices are identified by their bytes (the content of the inputs), not by where they lie.
    return {**named, **({"ready": True} if project.config.corpus.indices else {})}


def _classes(project: Project, slug: str) -> dict[str, Any]:
    domain = project.domain(slug).model_dump(mode="json", include={"classes", "templates"})
    # Seed images are searched with, so they matter to retrieval only.
    return {**domain, "classes": [{name: entry[name] for name in ("name", "synonyms")} for entry in domain["classes"]]}


def _evaluation_set(project: Project, slug: str) -> dict[str, Any]:
    evaluation = project.domain(slug).evaluation
    described = None if evaluation is None else evaluation.model_dump(mode="json", exclude={"path"}, exclude_none=True)
    return {"evaluation": described, "classes": project.domain(slug).class_names}


def _retrieved(project: Project, slug: str) -> dict[str, Any]:
    settings = project.retrieval(slug)
    seeds = seed_digests(project.config.domains, project.domain(slug)) if settings.uses_seeds else {}
    named = {"seeds": seeds} if seeds else {}
    fetched = _fetched(project)
    return {**_classes(project, slug), **settings.decisive(), **named, **_kept_out(project, slug), **fetched}


def _control(project: Project, slug: str) -> dict[str, Any]:
    fields = {"near_duplicate_similarity", "shard_pairs"}
    fetched = _fetched(project)
    return {**project.retrieval(slug).model_dump(mode="json", include=fields), **_kept_out(project, slug), **fetched}


def _fetched(project: Project) -> dict[str, Any]:
    """What decides which images are had where chosen pairs are fetched from URLs; nothing for other corpora."""
    if project.config.corpus.kind != "embeddings":
        return {}
    fields = {"retries", "image_size", "allow_private_addresses"}
    return {"download": project.config.corpus.download.model_dump(mode="json", include=fields)}


def _kept_out(project: Project, slug: str) -> dict[str, Any]:
    """What `decontaminate: all` looks at beside the domain's own evaluation set; nothing with `own`."""
    if project.retrieval(slug).decontaminate == "own":
        return {}
    directories = {key: project.store.directory("evaluation_set", key) for key in other_evaluation_sets(project, slug)}
    others = {key: (directory / CURRENT).read_text().strip() for key, directory in directories.items()}
    elevater = project.config.elevater
    return {"evaluation_sets": others, "elevater": list(elevater.dataset_names) if elevater.root else []}


def other_evaluation_sets(project: Project, slug: str) -> list[str]:
    """The other domains whose evaluation set is published, sorted."""
    published = project.store.keys("evaluation_set")
    return [key for key in published if key != slug and (project.config.domains / f"{key}.yaml").is_file()]


def _training(project: Project, key: str) -> dict[str, Any]:
    slug, method = key.split("/")
    chosen = project.training(slug, method)
    # Contrasted within its own process alone, a pair has other negatives where there are more processes.
    ignored = SPEED_FIELDS if chosen.global_negatives else SPEED_FIELDS - {"processes"}
    training = chosen.model_dump(mode="json", exclude=set(ignored | unused_fields(method)))
    # A linear head is one vector per class, so it depends on the classes whatever it is trained with.
    by_class = training.get("class_prompt_fraction") or _is_linear_head(method)
    return {"method": method, **training, **(_classes(project, slug) if by_class else {})}


def _evaluation(project: Project, key: str) -> dict[str, Any]:
    slug, method = key.split("/")
    evaluation = project.domain(slug).evaluation
    # Named only where it holds, so that all other results stay what they are.
    squash = {"squash": True} if evaluation is not None and evaluation.squash else {}
    return {"method": method, "precision": project.config.embedding.precision, **_classes(project, slug), **squash}


def _comparison(_project: Project, _key: str) -> dict[str, Any]:
    return {}


def _promotion(project: Project, _key: str) -> dict[str, Any]:
    return project.config.promotion.model_dump(mode="json")


def _benchmark_features(project: Project, _key: str) -> dict[str, Any]:
    elevater = project.config.elevater
    return {
        "datasets": list(elevater.dataset_names),
        "splits": ["test", "train"] if elevater.shots else ["test"],
        # Named only where it is made, so that features without it stay what they are.
        **({"unprojected": True} if elevater.probes_unprojected else {}),
    }


def _benchmark_results(project: Project, _key: str) -> dict[str, Any]:
    elevater = project.config.elevater
    trained = elevater.model_dump(mode="json", exclude={"root", "datasets"}) if elevater.shots else {}
    return {"datasets": list(elevater.dataset_names), **trained}


def _checkpoint(key: str) -> dict[str, str]:
    return {"base_checkpoint": ALL} if key.endswith("/base") else {"customized_checkpoint": key}


def _training_parents(key: str) -> dict[str, str]:
    slug, method = key.split("/")
    pairs = "control_set" if method.endswith(CONTROL_SUFFIX) else "retrieved_set"
    return {"base_checkpoint": ALL, pairs: slug}


def _evaluation_parents(key: str) -> dict[str, str]:
    slug, method = key.split("/")
    # A linear head is used on the base's features; the other methods' checkpoints hold a whole model.
    base = {"base_checkpoint": ALL} if method == "base" or _is_linear_head(method) else {}
    checkpoint = {} if method == "base" else {"customized_checkpoint": key}
    return {**base, **checkpoint, "evaluation_set": slug}


def _is_linear_head(method: str) -> bool:
    return method.removesuffix(CONTROL_SUFFIX) == "linear-head"


STAGES: Mapping[str, Stage] = {
    "corpus": Stage("1", _corpus, _nothing),
    "base_checkpoint": Stage("1", _encoder, _nothing),
    "corpus_embeddings": Stage("1", _embedding, lambda _: {"corpus": ALL, "base_checkpoint": ALL}),
    "faiss_index": Stage("1", _index, lambda _: {"corpus_embeddings": ALL}),
    "evaluation_set": Stage("1", _evaluation_set, _nothing),
    "retrieved_set": Stage(
        "2",
        _retrieved,
        lambda slug: {
            "corpus": ALL,
            "base_checkpoint": ALL,
            "corpus_embeddings": ALL,
            "faiss_index": ALL,
            "evaluation_set": slug,
        },
    ),
    "control_set": Stage(
        "1",
        _control,
        lambda slug: {
            "corpus": ALL,
            "base_checkpoint": ALL,
            "corpus_embeddings": ALL,
            "retrieved_set": slug,
            "evaluation_set": slug,
        },
    ),
    "customized_checkpoint": Stage("2", _training, _training_parents),
    "elevater_results": Stage("2", _evaluation, _evaluation_parents),
    # Its parents are whichever results exist and are fresh: `resolve` is given them by the step.
    "comparison": Stage("2", _comparison, _nothing),
    # As of `comparison`: the results that were weighed, and those of who reigns.
    "promotion": Stage("1", _promotion, _nothing),
    # As of `comparison`: the comparisons of all domains that have one.
    "overview": Stage("1", _comparison, _nothing),
    "benchmark_features": Stage("1", _benchmark_features, _checkpoint),
    "benchmark_results": Stage("1", _benchmark_results, lambda key: {"benchmark_features": key, **_checkpoint(key)}),
    # As of `comparison`.
    "benchmark_comparison": Stage("1", _comparison, _nothing),
}
"""Every stage, in the order in which data flows."""
