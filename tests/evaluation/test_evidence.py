"""Evidence apart from labels in comparison and promotion; it may come and go."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.judging import SLUG, unavailable, without_labels
from support.promotion import stand_in

from react_pipeline.evaluation import Evidence, comparison
from react_pipeline.evaluation.comparison import compare, comparison_is_current
from react_pipeline.extensions import guards, pages
from react_pipeline.lineage import fresh
from react_pipeline.project.project import Project
from react_pipeline.promotion import Contender, Judgement, Verdict
from react_pipeline.promotion.decision import decide, promotion_is_current
from react_pipeline.store import Artifact, Inputs, StaleArtifact

GATED = "gated-image"


class Ballots(Evidence):
    columns = ("judged_delta",)
    decides = True
    title = "Voted"
    explanation = "Three people voted."
    inputs = Inputs("votes", SLUG, {}, {}, "1", "three")

    def publish(self, project: Project) -> Artifact:
        def write(directory: Path, _: object) -> dict[str, Any]:
            (directory / "ballots.txt").write_text("3")
            return {"votes": 3}

        return project.store.build(self.inputs, write)

    def rows(self, checkpoints: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        values = {
            "judged_delta": 0.25,
            "judged_delta_low": 0.125,
            "judged_delta_high": 0.5,
            "judged": 3,
        }
        return {GATED: {**values, "status": "voted on"}} if GATED in checkpoints else {}

    def sentences(self, checkpoint: str = "") -> list[str]:
        return ["Two of three."]

    def judge(
        self,
        project: Project,
        champion: Contender,
        champion_name: str,
        turned_down: Collection[str],
    ) -> Judgement:
        checkpoint = project.store.current("customized_checkpoint", f"{SLUG}/{GATED}")
        rival = Contender(method=GATED, checkpoint=checkpoint.fingerprint, stage="votes")
        return Judgement("promoted", f"voted over {champion_name}", challenger=rival)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def replace(judgements: Evidence | None = None, drops: Evidence | None = None) -> None:
        monkeypatch.setattr(pages, "judgements_of", lambda *_: judgements)
        monkeypatch.setattr(pages, "JUDGEMENTS", "votes")
        monkeypatch.setattr(guards, "drops_of", lambda *_: drops)
        monkeypatch.setattr(guards, "GUARD_DROPS", "vetoes")

    return replace


@pytest.fixture
def project(make_project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch) -> Project:
    # The stand-ins of results have no pairs to show.
    monkeypatch.setattr(comparison, "_retrieved_sets", lambda *_: {})
    guarded = {"sets": [{"name": "drawings", "kind": "folder", "path": "drawings"}]}
    project = without_labels(make_project(guards=guarded), [GATED])
    unavailable(project, "base", GATED)
    return project


def test_evidence_is_shown_and_decides_without_labels(
    project: Project, install: Callable[..., None]
) -> None:
    install(Ballots())
    artifact = compare(project, SLUG)
    assert "votes" in artifact.parents
    row = pd.read_parquet(artifact.file("table.parquet")).set_index("method").loc[GATED]
    assert (row["judged_delta"], row["judged_delta_low"], row["judged"]) == (0.25, 0.125, 3)
    assert row["status"] == "voted on"
    assert "+25.0 (+12.5 to +50.0)" in artifact.file("table.md").read_text()
    page = artifact.file("dashboard.html").read_text()
    for text in ("Voted</h2>", "Three people voted.", "Judged without labels: Two of three"):
        assert text in page
    decided = decide(project, SLUG)
    assert Verdict.read(decided).champion.method == GATED and "votes" in decided.parents
    assert promotion_is_current(project, SLUG).fingerprint == decided.fingerprint


def test_evidence_that_is_gone_makes_what_it_decided_stale(
    project: Project, install: Callable[..., None]
) -> None:
    install(Ballots())
    before = compare(project, SLUG)
    decide(project, SLUG)
    install()
    for is_current in (comparison_is_current, promotion_is_current):
        with pytest.raises(StaleArtifact, match="votes"):
            is_current(project, SLUG)
    after = compare(project, SLUG)
    assert pd.read_parquet(after.file("table.parquet"))["judged_delta"].isna().all()
    install(Ballots())
    assert compare(project, SLUG).fingerprint == before.fingerprint


def test_a_stale_checkpoint_does_not_escape_an_objection(
    project: Project, install: Callable[..., None]
) -> None:
    class Veto(Ballots):
        decides = False
        inputs = Inputs("vetoes", SLUG, {}, {}, "1", "one")

        def objection(self, project: Project, contender: Contender) -> str:
            return "one said no"

    install(Ballots(), Veto())
    stand_in(project, "base_checkpoint", "all", content="another")
    with pytest.raises(StaleArtifact):
        fresh(project, "customized_checkpoint", f"{SLUG}/{GATED}")
    assert "one said no" in Verdict.read(decide(project, SLUG)).reason
