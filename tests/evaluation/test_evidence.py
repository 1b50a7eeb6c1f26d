"""Evidence apart from labels. That of guard sets and judgements is tested with these."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.judging import SLUG, unavailable, without_labels
from support.promotion import stand_in

from react_pipeline.evaluation import Evidence, comparison
from react_pipeline.extensions import guards, pages
from react_pipeline.lineage import fresh
from react_pipeline.project import Project
from react_pipeline.promotion import Contender, Judgement, Verdict, decide
from react_pipeline.store import Artifact, Inputs, StaleArtifact

GATED = "gated-image"


class Ballots(Evidence):
    columns = ("judged_delta",)
    decides = True
    title = explanation = "Three people voted."
    inputs = Inputs("votes", SLUG, {}, {}, "1", "three")

    def publish(self, project: Project) -> Artifact:
        return project.store.build(self.inputs, lambda *_: {"votes": 3})

    def rows(self, checkpoints: Any) -> dict[str, dict[str, Any]]:
        return {}

    def sentences(self, checkpoint: str = "") -> list[str]:
        return ["Two of three."]

    def judge(
        self, project: Project, champion: Contender, champion_name: str, turned_down: Any
    ) -> Judgement:
        checkpoint = project.store.current("customized_checkpoint", f"{SLUG}/{GATED}")
        rival = Contender(method=GATED, checkpoint=checkpoint.fingerprint, stage="votes")
        return Judgement("promoted", f"voted over {champion_name}", challenger=rival)


class Veto(Ballots):
    decides = False
    inputs = Inputs("vetoes", SLUG, {}, {}, "1", "one")

    def objection(self, project: Project, contender: Contender) -> str:
        return "one said no"


def test_a_stale_checkpoint_does_not_escape_an_objection(
    make_project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The stand-ins of results have no pairs to show.
    monkeypatch.setattr(comparison, "_retrieved_sets", lambda *_: {})
    guarded = {"sets": [{"name": "drawings", "kind": "folder", "path": "drawings"}]}
    project = without_labels(make_project(guards=guarded), [GATED])
    unavailable(project, "base", GATED)
    for module, name, stage, evidence in (
        (pages, "read_judgements", "JUDGEMENTS", Ballots()),
        (guards, "read_drops", "GUARD_DROPS", Veto()),
    ):
        monkeypatch.setattr(module, name, lambda *_, found=evidence: found)
        monkeypatch.setattr(module, stage, evidence.inputs.stage)
    stand_in(project, "base_checkpoint", "all", content="another")
    with pytest.raises(StaleArtifact):
        fresh(project, "customized_checkpoint", f"{SLUG}/{GATED}")
    assert "one said no" in Verdict.read(decide(project, SLUG)).reason
