"""Prompts: every template joined with every class name, in one place, so that retrieval and
evaluation agree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from react_pipeline.settings import DomainConfig

if TYPE_CHECKING:
    import pandas as pd


def prompt_templates(domain: DomainConfig) -> list[str]:
    """Return the domain's templates, each a text with `{}` once, where the class name goes.

    `imagenet` gives open_clip's `OPENAI_IMAGENET_TEMPLATES` (80), `simple` gives "a photo of a
    {}.".
    """
    if domain.templates == "simple":
        return ["a photo of a {}."]
    if domain.templates == "imagenet":
        from open_clip import OPENAI_IMAGENET_TEMPLATES

        return [write("{}") for write in OPENAI_IMAGENET_TEMPLATES]
    return list(domain.templates)


def fill(template: str, name: str) -> str:
    """Put the name into the template; other braces, in either text, stay as they are."""
    return template.replace("{}", name)


def class_prompts(domain: DomainConfig) -> pd.DataFrame:
    """Return every template with every name and every synonym, and the classes' own prompts: the
    queries of retrieval.

    Each prompt is a query of its own; templates are not averaged (REACT's public code does the
    same). A synonym is a name like any other, one prompt each. The zero-shot head does not use this
    table: it takes first names only.

    Returns:
        Columns class (its label), class_id (its position in the domain), name ("" of an own
        prompt), prompt; one row a prompt, in the order of classes, names, templates.
    """
    import pandas as pd  # not part of the light installation

    templates = prompt_templates(domain)
    rows = []
    for class_id, entry in enumerate(domain.classes):
        texts = [
            (name, fill(template, name))
            for name in (entry.name, *entry.synonyms)
            for template in templates
        ]
        texts += [("", prompt) for prompt in domain.prompts.get(entry.label, ())]
        rows += [(entry.label, class_id, *text) for text in texts]
    return pd.DataFrame(rows, columns=["class", "class_id", "name", "prompt"])
