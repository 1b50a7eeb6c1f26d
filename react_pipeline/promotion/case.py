"""Case: what a decision on a champion considers: the last verdict, the fresh results and evidence
that the comparison shows, and what the champion's own checkpoint was measured with.

Does not belong here: judging (`judgement`), deciding (`decision`).
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

from react_pipeline.evaluation import Evidence, collect_evidence
from react_pipeline.lineage import gather
from react_pipeline.project import Project
from react_pipeline.promotion.judgement import Measured
from react_pipeline.promotion.verdicts import BASE_METHOD, Contender, HistoryEntry, Verdict
from react_pipeline.stage import (
    DOMAIN_RESULTS,
    PROMOTION,
    method_key,
)
from react_pipeline.store import (
    Artifact,
    CorruptArtifact,
    InputError,
    MissingArtifact,
)

NEVER = "never evaluated"


@dataclass(frozen=True)
class Case:
    """What a decision sees.

    Attributes:
        last: The artifact of the last verdict; None before the first.
        results: The fresh results by method, as the comparison shows them.
        skipped: Why those of other methods are left out.
        evidence: What is known apart from results, by the stage of its artifact.
        deciding: The evidence that decides, where the domain has no labelled set.
    """

    project: Project
    slug: str
    last: Artifact | None
    verdict: Verdict
    results: Mapping[str, Artifact]
    skipped: Mapping[str, str]
    evidence: Mapping[str, Evidence]
    deciding: Evidence | None

    def result(self, method: str) -> Measured | str:
        """Return the result of a method, or the reason why there is none."""
        if method not in self.results:
            return self.skipped.get(method, NEVER)
        counts = self.results[method].counts
        if "top1" in counts:
            return Measured(self.results[method])
        return f"unavailable: {counts.get('unavailable')}"

    @cached_property
    def champion(self) -> Measured | None:
        """The champion's result."""
        return self.result_of(self.verdict.champion)

    def result_of(self, contender: Contender) -> Measured | None:
        """Return the fresh result of a model if it is of this checkpoint, else its newest."""
        result = self.result(contender.method)
        if contender.method == BASE_METHOD:
            return result if isinstance(result, Measured) else None
        if (
            isinstance(result, Measured)
            and contender.checkpoint in result.artifact.parents.values()
        ):
            return result
        found = find_results(self.project, self.slug, contender.method, contender.checkpoint)
        return next(iter(found), None)

    def seen(self, champion: Measured | None) -> dict[str, str]:
        """Return the fingerprints of all that is weighed, with the result of a champion."""
        seen = {name: result.fingerprint for name, result in self.results.items()}
        if champion is not None and champion.artifact.fingerprint not in seen.values():
            seen["champion"] = champion.artifact.fingerprint
        if self.deciding is not None:
            seen |= self.deciding.models(self.project)
        return seen | {name: one.inputs.fingerprint for name, one in self.evidence.items()}

    @property
    def news(self) -> list[str]:
        """The names of all that came, went or changed since the last verdict."""
        recorded = self.last.manifest["content"]["results"] if self.last else {}
        return sorted({name for name, _ in self.seen(self.champion).items() ^ recorded.items()})


def standing(project: Project, slug: str) -> tuple[Verdict, Artifact | None]:
    """Return the last verdict, fresh or not, and its artifact; None where none was ever decided.

    Raises:
        CorruptArtifact: If it cannot be read.
    """
    try:
        artifact = project.store.current(PROMOTION, slug)
        return Verdict.read(artifact), artifact
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


def champion_decision(project: Project, slug: str) -> HistoryEntry | None:
    """Return the decision that made the champion; None while the base is champion.

    Raises:
        CorruptArtifact: If the last verdict cannot be read.
    """
    verdict, artifact = standing(project, slug)
    if artifact is None or verdict.champion.method == BASE_METHOD:
        return None
    # Decisions that change nothing name the champion too.
    entries = (*verdict.history, verdict.as_history_entry(artifact))
    moved = [entry for entry in entries if entry.decision in ("promoted", "rolled back")]
    return moved[-1]


def build_case(project: Project, slug: str) -> Case:
    """Return everything that a decision on a domain considers today.

    Raises:
        InputError: If `promotion.max_drop` is set and nothing measures it.
        CorruptArtifact: If the last verdict, or the manifest of a result, cannot be read.
    """
    from react_pipeline.extensions.guards import GuardsConfig

    verdict, last = standing(project, slug)
    results, skipped = gather(project, PROMOTION, slug)
    if not project.has_domain(slug):
        return Case(project, slug, last, verdict, results, skipped, {}, None)
    if project.config.promotion.max_drop is not None and not (
        project.config.section(GuardsConfig).sets
    ):
        raise InputError(
            "promotion.max_drop: there is no guard set to measure it on; add `guards.sets`, or "
            "remove it"
        )
    evidence = collect_evidence(project, slug)
    deciding = None
    if project.domain(slug).evaluation is None:
        deciding = next((one for one in evidence.values() if one.decides), None)
    return Case(project, slug, last, verdict, results, skipped, evidence, deciding)


def find_results(project: Project, slug: str, method: str, checkpoint: str) -> list[Measured]:
    """Return every published, verified result of a checkpoint that has values, newest first."""
    store, key = project.store, method_key(slug, method)
    entries = []
    for fingerprint in store.versions(DOMAIN_RESULTS, key):
        with suppress(CorruptArtifact):
            artifact = store.open(DOMAIN_RESULTS, key, fingerprint)
            if checkpoint in artifact.parents.values() and "top1" in artifact.counts:
                artifact.verify()
                entries.append(Measured(artifact))
    return sorted(entries, key=lambda entry: str(entry.artifact.manifest["created"]), reverse=True)
