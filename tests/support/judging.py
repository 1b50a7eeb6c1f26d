"""Judged pictures without any picture: logs with answers of a test's choice, over stand-ins of
models.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from react_pipeline.extensions.pages.judge import JudgeBoard, open_judge
from react_pipeline.extensions.pages.judgements import JUDGEMENTS, shared_prompts, side_of
from react_pipeline.extensions.pages.session import Disagreement, Header, Side, create_log
from react_pipeline.project.project import Project
from react_pipeline.use import chosen_checkpoint
from support.promotion import checkpoint, result, stand_in
from support.upkeep import edit_domain

SLUG = "shapes"
ANSWERS = {"won": 0, "lost": 1, "neither": "neither", "unsure": "unsure"}
"""Every picture of these logs is class 0 to the candidate and class 1 to the other model."""


def without_labels(project: Project, methods: Sequence[str]) -> Project:
    """The project with a domain that has no labelled set, and a model of each method."""
    edit_domain(project, SLUG, evaluation=None)
    stand_in(project, "base_checkpoint", "all")
    for method in methods:
        if method != "base":
            checkpoint(project, SLUG, method)
    return project


def unavailable(project: Project, *methods: str) -> None:
    """Results of these methods as a domain without labels has them."""
    for method in methods:
        result(project, SLUG, method, None)


def header_of(
    project: Project, candidate: Side, against: Side, disagreements: int, images: int
) -> Header:
    pictures = tuple(
        Disagreement(path=f"{n}.png", candidate=0, against=1) for n in range(disagreements)
    )
    return Header(
        domain=SLUG,
        measure=shared_prompts(project, SLUG),
        candidate=candidate,
        against=against,
        source="pictures",
        images=images,
        pictures=pictures,
        created=datetime.now(UTC).isoformat(),
    )


def say(board: JudgeBoard, picture: int, choice: object) -> bool:
    return board.answer({"picture": picture, "choice": choice})


def judge(
    project: Project,
    candidate: str,
    against: str,
    answers: Sequence[str],
    *,
    disagreements: int = 200,
    images: int = 1000,
) -> Path:
    """A log of two present models in which these answers, of `ANSWERS`, were given in some
    order.
    """
    sides = [side_of(chosen_checkpoint(project, SLUG, name)[0]) for name in (candidate, against)]
    path = (
        project.path.parent
        / JUDGEMENTS
        / SLUG
        / f"{candidate}--{against}--{len(answers):012d}.jsonl"
    )
    create_log(path, header_of(project, sides[0], sides[1], disagreements, images))
    with open_judge(path, "a tester", 1) as board:
        shuffled = random.Random(0).sample(list(answers), len(answers))  # noqa: S311 - the same in every run
        for number, answer in enumerate(shuffled):
            assert say(board, number, ANSWERS[answer])
    return path
