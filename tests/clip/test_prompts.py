"""Prompts: templates x names."""

from __future__ import annotations

import open_clip

from react_pipeline.clip import class_prompts, fill, prompt_templates
from react_pipeline.settings import DomainConfig
from react_pipeline.settings.config import ClassConfig


def domain(**fields):
    return DomainConfig(
        slug="pets", **{"classes": ["cat", ClassConfig(name="dog", synonyms=("hound",))], **fields}
    )


def test_imagenet_templates_are_open_clips_eighty_in_its_order():
    templates = prompt_templates(domain(templates="imagenet"))
    assert len(templates) == 80
    assert [fill(template, "cat") for template in templates] == [
        make("cat") for make in open_clip.OPENAI_IMAGENET_TEMPLATES
    ]


def test_every_template_meets_every_name_and_synonym():
    prompts = class_prompts(domain(templates=("a {}", "the {}")))
    columns = prompts[["class", "class_id", "prompt"]]
    assert columns.to_dict("split")["data"] == [
        ["cat", 0, "a cat"],
        ["cat", 0, "the cat"],
        ["dog", 1, "a dog"],
        ["dog", 1, "the dog"],
        ["dog", 1, "a hound"],
        ["dog", 1, "the hound"],
    ]
    # Braces in names and templates stay text.
    assert fill("a {} in {0} {brackets}", "{x}") == "a {x} in {0} {brackets}"
