"""Case: what a decision on a champion considers: the last verdict, and results that are fresh and
verified.

A champion whose method has another checkpoint by now is judged by results of its own checkpoint,
measured again. Does not belong here: judging (`judgement`), deciding (`decision`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from react_pipeline.evaluation import Evidence, evidence_of, write_evaluation
from react_pipeline.lineage import fresh, parents_of
from react_pipeline.project import Project
from react_pipeline.promotion.judgement import Measured
from react_pipeline.promotion.verdicts import BASE_METHOD, Contender, HistoryEntry, Verdict
from react_pipeline.settings import CONTROL_SUFFIX
from react_pipeline.stage import (
    ALL,
    BASE_CHECKPOINT,
    CUSTOMIZED_CHECKPOINT,
    DOMAIN_RESULTS,
    EVALUATION_SET,
    PROMOTION,
    STAGES,
    method_key,
)
from react_pipeline.store import (
    Artifact,
    CorruptArtifact,
    InputError,
    Inputs,
    MissingArtifact,
    Scratch,
)

REEVALUATED = "reevaluated_results"
"""Stage of a champion's results on newer images, when its method has another checkpoint by now.
Key: the domain.
"""

NEVER = "never evaluated"


@dataclass(frozen=True)
class Case:
    """What a decision sees.

    Attributes:
        last: The artifact of the last verdict; None before the first.
        results: By method, the fresh result of the base, a candidate or a control, or the reason
            why there is none.
        evidence: What decides where the domain has no labelled set; None where it has one.
        objecting: Evidence that decides nothing, and may object.
    """

    project: Project
    slug: str
    last: Artifact | None
    verdict: Verdict
    results: Mapping[str, Measured | str]
    evidence: Evidence | None
    objecting: tuple[Evidence, ...]

    @cached_property
    def measured(self) -> dict[str, Measured]:
        """The results that there are, by method."""
        return {name: one for name, one in self.results.items() if isinstance(one, Measured)}

    @cached_property
    def champion(self) -> Measured | None:
        """The champion's result."""
        return self.result_of(self.verdict.champion)

    @property
    def weighed(self) -> tuple[Evidence, ...]:
        """All evidence that is weighed."""
        return (*([self.evidence] if self.evidence else ()), *self.objecting)

    def seen(self, champion: Measured | None) -> dict[str, str]:
        """Return the fingerprints of everything that is weighed, with the result of a champion."""
        seen = {method: entry.artifact.fingerprint for method, entry in self.measured.items()}
        if champion is not None and champion.artifact.fingerprint not in seen.values():
            seen["champion"] = champion.artifact.fingerprint
        models = {} if self.evidence is None else self.evidence.models(self.project)
        return {
            **seen,
            **models,
            **{one.inputs.stage: one.inputs.fingerprint for one in self.weighed},
        }

    def result_of(self, contender: Contender) -> Measured | None:
        """Return the fresh result of a model if it is of this checkpoint, else the newest that is
        comparable.
        """
        result = self.measured.get(contender.method)
        if contender.method == BASE_METHOD:
            return result
        if result is not None and contender.checkpoint in result.artifact.parents.values():
            return result
        candidates = results_of(self.project, self.slug, contender.method, contender.checkpoint)
        measures = {entry.measure for entry in self.measured.values()}
        return max(candidates, key=lambda one: one.measure in measures, default=None)


def standing(project: Project, slug: str) -> tuple[Verdict, Artifact | None]:
    """Return the last verdict, fresh or not, and its artifact; None where none was ever decided.

    Raises:
        CorruptArtifact: If it cannot be read.
    """
    try:
        artifact = project.store.current(PROMOTION, slug)
    except MissingArtifact:
        base = Contender(method=BASE_METHOD)
        never = Verdict(
            domain=slug, decision="nothing", reason=NEVER, champion_before=base, champion=base
        )
        return never, None
    except CorruptArtifact as error:
        raise CorruptArtifact(
            f"{error}. It names the champion of {slug!r}: restore it from a copy, or remove "
            f"{project.store.address(PROMOTION, slug)} and promote a model with "
            "`react-pipeline models promote`"
        ) from error
    return Verdict.read(artifact), artifact


def champion_decision(project: Project, slug: str) -> HistoryEntry | None:
    """Return the decision that made the champion; None while the base is champion.

    Raises:
        CorruptArtifact: If the last verdict cannot be read.
    """
    verdict, artifact = standing(project, slug)
    if artifact is None or verdict.champion.method == BASE_METHOD:
        return None
    last = verdict.as_history_entry(artifact)
    # Decisions that change nothing name the champion too.
    moved = [
        entry for entry in (*verdict.history, last) if entry.decision in ("promoted", "rolled back")
    ]
    return moved[-1] if moved and moved[-1].champion.is_same(verdict.champion) else last


def case_of(project: Project, slug: str, *, verify: bool = True) -> Case:
    """Return everything that a decision on a domain considers today.

    Args:
        verify: Read the files of the results, of which damaged ones are not considered.

    Raises:
        InputError: If `promotion.max_drop` is set and nothing measures it.
        CorruptArtifact: If the last verdict cannot be read, or the disk fails to read a result.
    """
    from react_pipeline.extensions.guards import GuardsConfig

    verdict, last = standing(project, slug)
    settings = project.config.promotion
    candidates = list(project.config.candidates)
    if settings.all_seeds:
        candidates += [name for one in candidates for name in project.config.further_seeds(one)]
    controls = [method + CONTROL_SUFFIX for method in candidates] if settings.over_control else []
    methods = (BASE_METHOD, *candidates, *controls)
    results = {method: _fresh_result(project, slug, method, verify) for method in methods}
    has_file = project.has_domain(slug)
    evidence = tuple(evidence_of(project, slug).values()) if has_file else ()
    guard_sets = project.config.section(GuardsConfig).sets
    if settings.max_drop is not None and has_file and not guard_sets:
        raise InputError(
            "promotion.max_drop: there is no guard set to measure it on; add `guards.sets`, or "
            "remove it"
        )
    has_labels = not has_file or project.domain(slug).evaluation is not None
    deciding = [one for one in evidence if one.decides and not has_labels]
    objecting = tuple(one for one in evidence if not one.decides)
    return Case(project, slug, last, verdict, results, next(iter(deciding), None), objecting)


def _fresh_result(project: Project, slug: str, method: str, verify: bool) -> Measured | str:
    key = method_key(slug, method)
    if not project.store.has(DOMAIN_RESULTS, key):
        return NEVER
    try:
        artifact = fresh(project, DOMAIN_RESULTS, key)
        if verify:
            artifact.verify()
    except (InputError, CorruptArtifact) as error:
        _refuse_unreadable(error)
        return str(error)
    if "top1" in artifact.counts:
        return Measured(artifact)
    return f"unavailable: {artifact.counts.get('unavailable')}"


def results_of(project: Project, slug: str, method: str, checkpoint: str) -> list[Measured]:
    """Return every published, verified result of a checkpoint that has values, newest first."""
    store = project.store
    entries = []
    for stage, key in ((DOMAIN_RESULTS, method_key(slug, method)), (REEVALUATED, slug)):
        for fingerprint in store.versions(stage, key):
            try:
                artifact = store.open(stage, key, fingerprint)
                if checkpoint not in artifact.parents.values():
                    continue
                artifact.verify()
                entry = Measured.of(artifact)
            except CorruptArtifact as error:
                _refuse_unreadable(error)
                continue
            if entry is not None:
                entries.append(entry)
    return sorted(entries, key=lambda entry: str(entry.artifact.manifest["created"]), reverse=True)


def reevaluate(project: Project, slug: str) -> Artifact:
    """Measure the champion's checkpoint on today's images, where its method has another checkpoint
    by now.

    Raises:
        InputError: If the base is champion, or the checkpoint no longer fits the domain's classes.
        MissingArtifact: If there are no evaluation images, or the checkpoint is gone.
    """
    verdict, _ = standing(project, slug)
    method = verdict.champion.method
    if method == BASE_METHOD:
        raise InputError(
            f"{slug}: the base is champion; materialize `{DOMAIN_RESULTS}` for {slug!r} and base "
            "instead"
        )
    key = method_key(slug, method)
    checkpoint = project.store.open(CUSTOMIZED_CHECKPOINT, key, verdict.champion.checkpoint)
    parents = {
        CUSTOMIZED_CHECKPOINT: checkpoint,
        EVALUATION_SET: fresh(project, EVALUATION_SET, slug),
    }
    if BASE_CHECKPOINT in parents_of(project, DOMAIN_RESULTS, key):
        base = checkpoint.parents[BASE_CHECKPOINT]
        parents[BASE_CHECKPOINT] = project.store.open(BASE_CHECKPOINT, ALL, base)
    row = STAGES[DOMAIN_RESULTS]
    inputs = Inputs(REEVALUATED, slug, row.identity(project, key), parents, row.version)
    domain = project.domain(slug)

    def write(directory: Path, _: Scratch) -> dict[str, Any]:
        return write_evaluation(project, domain, method, checkpoint, parents, directory)

    return project.store.build(inputs, write)


def _refuse_unreadable(error: Exception) -> None:
    """Raise what the disk cannot read now, which may be evidence; a damaged file is none."""
    cause = error.__cause__
    if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
        raise error
