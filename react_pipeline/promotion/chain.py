"""The chain of verdicts: what a decision considers, and how its verdict follows the last one.

Of several hosts one decides what follows a verdict: a verdict's fingerprint depends only on the
verdict before it, and the store publishes one artifact per fingerprint. Who comes second decides
again. Everybody who finds a verdict that follows the current one makes it current, so no
process that ends in between holds up the domain. The current artifact of the stage `promotion`
names the champion, whether MLflow is up or not.

A verdict's parents are the results that were considered, the champion's, and those of the previous
champion. So the store never prunes these models, even when their methods have newer ones. Earlier
verdicts are pruned; what they changed is in the last one's history.

Does not belong here: judging (`judgement`), deciding (`decision`).
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

from react_pipeline.evaluation import Evidence, collect_evidence
from react_pipeline.lineage import gather, resolve
from react_pipeline.project import Project
from react_pipeline.promotion.judgement import Judgement, Measured
from react_pipeline.promotion.verdicts import (
    BASE_METHOD,
    MOVES,
    Contender,
    HistoryEntry,
    Verdict,
    write_verdict,
)
from react_pipeline.stage import DOMAIN_RESULTS, PROMOTION, method_key
from react_pipeline.store import (
    Artifact,
    CorruptArtifact,
    InputError,
    Inputs,
    MissingArtifact,
    ReactError,
    hash_value,
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
    """

    project: Project
    slug: str
    last: Artifact | None
    verdict: Verdict
    results: Mapping[str, Artifact]
    skipped: Mapping[str, str]
    evidence: Mapping[str, Evidence]

    def result(self, method: str) -> Measured | str:
        """Return the result of a method, or the reason why there is none."""
        if method not in self.results:
            return self.skipped.get(method, NEVER)
        counts = self.results[method].counts
        if "top1" in counts:
            return Measured(self.results[method])
        return f"unavailable: {counts.get('unavailable')}"

    @cached_property
    def deciding(self) -> Evidence | None:
        """The evidence that decides, where the domain has no labelled set."""
        if self.evidence and self.project.domain(self.slug).evaluation is None:
            return next((one for one in self.evidence.values() if one.decides), None)
        return None

    @cached_property
    def champion(self) -> Measured | None:
        """The champion's result."""
        return self.result_of(self.verdict.champion)

    def result_of(self, contender: Contender) -> Measured | None:
        """Return the fresh result of a model if it is of this checkpoint, else its newest; of the
        base only the fresh one.
        """
        method, checkpoint = contender.method, contender.checkpoint
        result = self.result(method)
        is_base = method == BASE_METHOD
        if isinstance(result, Measured) and (
            is_base or checkpoint in result.artifact.parents.values()
        ):
            return result
        found = [] if is_base else find_results(self.project, self.slug, method, checkpoint)
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
    moved = verdict.decision in MOVES
    return verdict.as_history_entry(artifact) if moved else verdict.history[-1]


def build_case(project: Project, slug: str) -> Case:
    """Return everything that a decision on a domain considers today.

    Raises:
        InputError: If `promotion.max_drop` is set and nothing measures it.
        CorruptArtifact: If the last verdict, or the manifest of a result, cannot be read.
    """
    from react_pipeline.extensions.guards import GuardsConfig

    has_guards = project.config.section(GuardsConfig).sets
    if project.config.promotion.max_drop is not None and not has_guards:
        raise InputError(
            "promotion.max_drop: there is no guard set to measure it on; add `guards.sets`, or "
            "remove it"
        )
    verdict, last = standing(project, slug)
    evidence = collect_evidence(project, slug) if project.has_domain(slug) else {}
    return Case(project, slug, last, verdict, *gather(project, PROMOTION, slug), evidence)


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


def conclude(project: Project, slug: str, decide: Callable[[Case], Judgement | None]) -> Artifact:
    """Publish the verdict that follows the last one.

    Args:
        decide: Called again when another process decided meanwhile, or the verdict that it led to
            was removed; None: the last verdict holds.
    """
    while True:
        _make_last_current(project, slug)
        case = build_case(project, slug)
        judgement = decide(case)
        if judgement is not None:
            made = _publish(case, judgement)
            if _make_last_current(project, slug) != case.last and not made.reused:
                return made
        elif case.last is not None:
            return case.last


def _make_last_current(project: Project, slug: str) -> Artifact | None:
    """Return the last verdict of the chain, which is current then; None before the first."""
    while True:
        _, last = standing(project, slug)
        try:
            after = _fingerprint_after(slug, last.fingerprint if last else None)
            following = project.store.open(PROMOTION, slug, after)
            following.verify()
        except (MissingArtifact, CorruptArtifact):
            return last
        project.store.set_current(following)


def _fingerprint_after(slug: str, last: str | None) -> str:
    return hash_value([PROMOTION, slug, last])


@dataclass(frozen=True)
class _InputsAfter(Inputs):
    """The inputs of the verdict that follows one, by its fingerprint: only one can, whatever it is
    made from.
    """

    last: str | None = None

    @property
    def fingerprint(self) -> str:
        return _fingerprint_after(self.key, self.last)

    @property
    def slug(self) -> str:
        # A killed decision leaves its files to nobody who decides otherwise.
        return f"{super().slug}--{hash_value(self.identity)}"


def _publish(case: Case, judgement: Judgement) -> Artifact:
    verdict = _next(case, judgement)
    content = {
        "results": case.seen(case.result_of(verdict.champion)),
        "verdict": hash_value(verdict.model_dump(mode="json")),
    }
    parents = _parents(case, verdict)
    inputs = resolve(case.project, PROMOTION, case.slug, parents=parents, content=content)
    return case.project.store.build(
        _InputsAfter(**vars(inputs), last=case.last.fingerprint if case.last else None),
        lambda folder, _: write_verdict(folder, verdict, judgement.rows),
        is_current=False,
    )


def _next(case: Case, judgement: Judgement) -> Verdict:
    """Return the verdict; a model that is rolled back is rejected until a person promotes it."""
    before = case.verdict
    champion = judgement.champion or before.champion
    # A champion by other evidence keeps that; one that stays may have been measured since.
    by_result = judgement.champion is None or champion.stage == DOMAIN_RESULTS
    if by_result and (measured := case.result_of(champion)):
        champion = measured.contender  # with its result of today
    earlier = before.previous_champions
    rejected = set(before.rejected)
    if judgement.decision == "rolled back":
        earlier = () if champion.method == BASE_METHOD else earlier[:-1]
        rejected.add(before.champion.checkpoint)
    elif not champion.is_same(before.champion):
        earlier = (*earlier, before.champion)
        rejected.discard(champion.checkpoint)
    history = before.history
    if case.last is not None and before.decision in MOVES:
        history = (*history, before.as_history_entry(case.last))
    return Verdict(
        **vars(judgement) | {"champion": champion},
        domain=case.slug,
        champion_before=before.champion,
        previous_champions=earlier,
        rejected=tuple(sorted(rejected)),
        history=history,
    )


def _parents(case: Case, verdict: Verdict) -> dict[str, Artifact]:
    """Return what was considered, and what must outlive pruning of the champion and the one before
    it.
    """
    parents = dict(case.results)
    parents |= {name: one.publish(case.project) for name, one in case.evidence.items()}
    previous = next(reversed(verdict.previous_champions), None)
    for name, model in (("champion", verdict.champion), ("previous", previous)):
        if model is None or model.method == BASE_METHOD:
            continue
        key = method_key(case.slug, model.method) if model.stage == DOMAIN_RESULTS else case.slug
        with suppress(ReactError):  # its files are gone
            parents[name] = case.project.store.open(model.stage, key, model.result)
    return parents
