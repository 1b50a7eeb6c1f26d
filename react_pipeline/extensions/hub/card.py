"""The model card: a README in Markdown that says what an exported model is made of, how good it is,
how it is loaded.

Belongs here: the text with the Hub's metadata, and the escaping of what comes from outside. Does
not belong here: writing files (`export`), measuring (`evaluate`). Every figure is read from a
verified artifact, of the exported checkpoint's own making where it is not today's; unknown figures
are marked as such.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import open_clip
from huggingface_hub import EvalResult as HubResult
from huggingface_hub import ModelCardData
from markupsafe import Markup

from react_pipeline.clip import GATED_PREFIX, encoder_fields
from react_pipeline.evaluation import EvalResult, evidence_of
from react_pipeline.extensions.hub.formats import Exported, Facts
from react_pipeline.lineage import fresh_or_none
from react_pipeline.pages import escaped, markdown_table, render
from react_pipeline.project import Project
from react_pipeline.promotion import HistoryEntry, Measured, results_of
from react_pipeline.settings import CONTROL_SUFFIX, HUB_PREFIX, encoders
from react_pipeline.stage import ALL, FEW_SHOT_SET, RETRIEVAL_CHECKPOINT, method_key
from react_pipeline.store import Artifact, InputError
from react_pipeline.use import training_pairs

MAX_NAMES = 200
"""Class names beyond this many are counted, not listed."""


def model_card(
    exported: Exported,
    formats: Mapping[str, Facts],
    licence: str,
    decision: HistoryEntry | None = None,
) -> str:
    """The README of an exported checkpoint, in Markdown.

    Args:
        formats: What was measured of each further format.
        licence: Its identifier on the Hub.
        decision: What made it champion, if it is exported as that.

    Raises:
        MissingArtifact: If something that the checkpoint was made from is gone.
    """
    project, checkpoint = exported.project, exported.checkpoint
    slug, method = checkpoint.key.split("/")
    try:
        domain = project.domain(slug)
        title = domain.title or slug
        description = domain.description
    except InputError:  # its file is gone, and its champion is not
        title = slug
        description = ""
    pairs = training_pairs(project, checkpoint)
    results = _shown_results(project, checkpoint, decision)
    measured, figures = _figures(method, results, decision)
    made_from = _ingredients(project, checkpoint, pairs)
    text = render(
        "extensions/hub",
        "model_card.md",
        title=title,
        description=description,
        slug=slug,
        method=method,
        decision=decision,
        loading=exported.loading,
        formats=formats,
        measured=measured,
        figures=figures,
        evidence=_evidence(project, checkpoint, labels=measured is not None),
        class_names=exported.domain.class_names,
        max_names=MAX_NAMES,
        control=method.endswith(CONTROL_SUFFIX),
        **made_from,
        **ingredients(project),
    )
    metadata = _metadata(exported, formats, licence, results, made_from["base"])
    return f"---\n{metadata.to_yaml()}\n---\n\n{text}"


def _metadata(
    exported: Exported,
    formats: Mapping[str, Facts],
    licence: str,
    results: Mapping[str, EvalResult | None],
    base: Mapping[str, Any],
) -> ModelCardData:
    """What the Hub reads of a card: how it is found and loaded, and its own result."""
    slug, method = exported.checkpoint.key.split("/")
    library = "open_clip" if exported.loading.registered else "react_pipeline"
    measured = _hub_results(method, results)
    return ModelCardData(
        license=licence,
        library_name=library,
        pipeline_tag="zero-shot-image-classification",
        tags=["clip", "react", method],
        base_model=_base_on_hub(base),
        model_name=f"{slug}/{method}" if measured else None,
        eval_results=measured,
        **({"title": f"{slug} ({method})", **formats["space"]} if "space" in formats else {}),
    )


def _base_on_hub(base: Mapping[str, Any]) -> str | None:
    """The name of a base model on the Hub; None where it has none."""
    pretrained = str(base.get("pretrained"))
    if pretrained.startswith(HUB_PREFIX):
        return pretrained.removeprefix(HUB_PREFIX).partition("@")[0]
    name = str(base["model"]).removeprefix(GATED_PREFIX)
    tag = open_clip.get_pretrained_cfg(name, pretrained) or {}
    return str(tag.get("hf_hub") or "").strip("/") or None


def _hub_results(method: str, results: Mapping[str, EvalResult | None]) -> list[HubResult] | None:
    """The model's own top-1, a fraction, with those of the base and the control beside it; none if
    it was not measured.
    """
    own = results[method]
    if own is None or own.top1 is None:
        return None
    others = {
        name: result.top1
        for name, result in results.items()
        if name != method and result is not None and result.top1 is not None
    }
    return [
        HubResult(
            task_type="zero-shot-image-classification",
            dataset_type=own.domain,
            dataset_name=own.dataset,
            dataset_args={"images": own.n, "classes": own.n_classes},
            metric_type="accuracy",
            metric_name="top-1",
            metric_value=own.top1,
            metric_args=others or None,
        )
    ]


def _shown_results(
    project: Project, checkpoint: Artifact, decision: HistoryEntry | None
) -> dict[str, EvalResult | None]:
    """Return the fresh results of the base, the model and its control; of an older champion its
    own, and a base that was measured alike. None where there is none.
    """
    slug, method = checkpoint.key.split("/")
    trained = method.removesuffix(CONTROL_SUFFIX)
    names = ("base", trained, trained + CONTROL_SUFFIX)
    shown = {name: _fresh_result(project, slug, name) for name in names}
    result = shown[method]
    is_own = result is not None and result.parents.get(checkpoint.stage) == checkpoint.fingerprint
    if decision and not is_own:
        own = next(iter(results_of(project, slug, method, checkpoint.fingerprint)), None)
        base = Measured.of(shown["base"]) if shown["base"] else None
        # Today's control was trained as today's model was, not as this one.
        shown = dict.fromkeys(names)
        if own:
            shown[method] = own.artifact
            shown["base"] = base.artifact if base and base.measure == own.measure else None
    return {
        name: None if artifact is None else EvalResult.read(artifact)
        for name, artifact in shown.items()
    }


def _fresh_result(project: Project, slug: str, method: str) -> Artifact | None:
    try:
        return fresh_or_none(project, "domain_results", method_key(slug, method))
    except InputError:  # the domain's file is gone
        return None


def _figures(
    method: str, results: Mapping[str, EvalResult | None], decision: HistoryEntry | None
) -> tuple[EvalResult | None, Markup]:
    """A result that says on what was measured, and the table."""
    measured: EvalResult | None = None
    rows: list[list[Any]] = []
    missing = "not evaluated, or not in the same way" if decision else "not evaluated"
    for name, result in results.items():
        shown = Markup(escaped(name))  # noqa: S704
        if name == method:
            shown = Markup("**{}** (this model)").format(shown)
        if result is None:
            rows.append([shown, missing, "", ""])
        elif result.top1 is None:
            rows.append([shown, f"unavailable: {result.unavailable or 'no reason given'}", "", ""])
        else:
            measured = result
            mean = "" if result.mean_per_class is None else f"{100 * result.mean_per_class:.1f}"
            rows.append([shown, f"{100 * result.top1:.1f}", mean, result.n])
    table = markdown_table(["method", "top-1 %", "mean per class %", "images"], rows)
    return measured, Markup(table)  # noqa: S704


def _evidence(
    project: Project, checkpoint: Artifact, *, labels: bool
) -> list[tuple[str, list[str]]]:
    """Each kind of evidence on this very model: how it was obtained, and its sentences.

    What decides without labels is not shown beside results on them.
    """
    try:
        evidence = evidence_of(project, checkpoint.key.split("/")[0])
    except InputError:  # the domain's file is gone
        return []
    sentences = [
        (one.explanation, one.sentences(checkpoint.fingerprint))
        for one in evidence.values()
        if not (labels and one.decides)
    ]
    return [one for one in sentences if one[1]]


def _ingredients(project: Project, checkpoint: Artifact, pairs: Artifact) -> dict[str, Any]:
    """What the checkpoint was made from, for the template."""

    def fields_of(stage: str, of: Artifact) -> dict[str, Any]:
        encoder = project.store.open(stage, ALL, of.parents[stage])
        return encoder_fields(encoder.manifest["config"], encoder.path)

    slug, method = checkpoint.key.split("/")
    methods = project.config.all_methods
    retrieves = RETRIEVAL_CHECKPOINT in pairs.parents
    shots = None
    if FEW_SHOT_SET in checkpoint.parents:
        shots = project.store.open(FEW_SHOT_SET, slug, checkpoint.parents[FEW_SHOT_SET])
    return {
        "checkpoint": checkpoint,
        "pairs": pairs,
        "corpus": project.store.open("corpus", ALL, pairs.parents["corpus"]),
        "base": fields_of("base_checkpoint", checkpoint),
        "retrieval": fields_of(RETRIEVAL_CHECKPOINT, pairs) if retrieves else {},
        "shots": shots.counts["images"] if shots else 0,
        "trains": methods[method].summary if method in methods else "see the documentation",
    }


def ingredients(project: Project) -> dict[str, Sequence[tuple[str, str, str]]]:
    """The packages that corpus and base are made of; none where they are not made of packages."""
    built = encoders().get(project.config.encoder.model)
    return {
        "corpus_sources": project.config.corpus.ingredients(),
        "base_sources": built.ingredients() if built else (),
    }
