"""Decisions of people on single images: what a review of a domain says, and what is taken down.

`DOMAIN.review.jsonl`, next to the domain's file, holds one decision a line; the last one on an
image counts. `takedown.txt`, next to `pipeline.yaml`, lists images that no set of any domain may
hold, by SHA-256 or URL. Does not belong here: what a decision does to candidates
(`retrieval.review`), the page on which decisions are made (the extension `review`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from react_pipeline.project.project import Project
from react_pipeline.store import InputError, hash_value


class ImageDecision(BaseModel):
    """A person's decision on one image of a retrieved set.

    Attributes:
        image: Its SHA-256, as in `pairs.parquet`.
        url: Its URL, for a corpus of URLs.
        label: The class that it was shown for.
        verdict: `reject` it; None takes the earlier decision back.
        by: Who decided.
        time: When, in ISO 8601.
    """

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    image: str = Field(pattern="^[0-9a-f]{64}$")
    url: str = ""
    label: str = Field(alias="class")
    verdict: Literal["reject"] | None
    by: str
    time: str


def review_file(project: Project, slug: str) -> Path:
    """Return the file of a domain's decisions."""
    return project.config.domains / f"{slug}.review.jsonl"


def current_decisions(project: Project, slug: str) -> dict[str, ImageDecision]:
    """Return the last decision on each image of a domain, by its SHA-256, if it was not taken back;
    a line that a kill cut short is ignored.

    Raises:
        InputError: Naming the file and line that is no decision.
    """
    path = review_file(project, slug)
    try:
        whole, _, _torn = path.read_bytes().rpartition(b"\n")
    except FileNotFoundError:
        return {}
    decisions: dict[str, ImageDecision] = {}
    for number, line in enumerate(whole.split(b"\n") if whole else (), 1):
        try:
            decision = ImageDecision.model_validate_json(line)
        except ValidationError as error:
            raise InputError(
                f"{path}:{number}: not a decision ({error.errors()[0]['msg']}); correct the line, "
                "or remove it"
            ) from error
        decisions.pop(decision.image, None)
        if decision.verdict is not None:
            decisions[decision.image] = decision
    return decisions


def taken_down(project: Project) -> frozenset[str]:
    """Return the SHA-256 and URLs of the images that no set may hold."""
    try:
        lines = takedown_file(project).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return frozenset()
    except (OSError, ValueError) as error:
        raise InputError(f"{takedown_file(project)}: {error}; make it a readable text") from error
    return frozenset(line.strip() for line in lines if line.strip() and line[0] != "#")


def takedown_file(project: Project) -> Path:
    """Return the list of images that were taken down."""
    return project.path.parent / "takedown.txt"


def review_identity(project: Project, slug: str) -> dict[str, Any]:
    """Return the part of the identity of a retrieved set; empty if no decision changes the set."""
    changes = {image: one.url for image, one in current_decisions(project, slug).items()}
    return {"review": hash_value(changes)} if changes else {}


def takedown_identity(project: Project) -> dict[str, Any]:
    """Return the part of the identity of every set; nothing where nothing was taken down."""
    images = taken_down(project)
    return {"takedown": hash_value(sorted(images))} if images else {}
