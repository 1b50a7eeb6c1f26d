"""The pages say what the code does: every field is listed, every link leads somewhere, every
command is one.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Set
from pathlib import Path

import pytest
import typer
import yaml
from pydantic import BaseModel

from docs import stages
from react_pipeline import __version__
from react_pipeline.commands.cli import app
from react_pipeline.settings import config
from react_pipeline.settings import training as training_config
from react_pipeline.settings.corpus import CorpusConfig, corpus_kinds
from react_pipeline.settings.evaluation import labelled_kinds

ROOT = Path(__file__).parents[2]
PAGES = [
    path
    for folder in (ROOT, *(ROOT / name for name in ("docs", "benchmarks", "recipes/imagenet-b32")))
    for path in sorted(folder.glob("*.md"))
]


def test_configuration_page_has_every_field_with_its_default() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    blocks = re.findall(r"^```yaml\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    fields = yaml.safe_load(blocks.pop())
    domain = config.DomainConfig.model_validate(fields)
    assert domain.model_fields_set == set(config.DomainConfig.model_fields)
    assert domain.evaluation is not None
    assert domain.evaluation.model_fields_set == set(type(domain.evaluation).model_fields)
    for kind in labelled_kinds().values():
        assert all(f" {name}: " in page for name in kind.model_fields), kind
    examples = ("encoder: {", "corpus: #")
    given = yaml.safe_load("".join(block for block in blocks if not block.startswith(examples)))
    training = given.pop("customization")["defaults"]
    needed = {
        "corpus": {"shards": given["corpus"]["shards"]},
        "encoder": {"pretrained": given["encoder"]["pretrained"]},
    }
    for name, model in config.sections_of_extensions().items():
        section = model(**given.pop(name))
        assert section == model()
        assert_complete(section)
    on_page, by_default = config.PipelineConfig(**given), config.PipelineConfig(**needed)
    assert on_page == by_default
    assert training_config.TrainingConfig(**training) == training_config.TrainingConfig()
    assert set(training) == set(training_config.TrainingConfig.model_fields)
    assert_complete(on_page, but={"customization"})


def test_configuration_page_has_fields_of_each_kind_of_corpus() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    blocks = re.findall(r"^```yaml\n(corpus:.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    kinds, shared = corpus_kinds(), set(CorpusConfig.model_fields) - {"kind"}
    shared_by_tables = {"url_column", "caption_column", "hash_column", "download"}
    for block in blocks:
        given = yaml.safe_load(block)["corpus"]
        kind = kinds[given["kind"]]
        elsewhere = shared | (shared_by_tables if given["kind"] == "embeddings" else set())
        section = kind(**given)
        assert section.model_fields_set - shared == set(kind.model_fields) - elsewhere
        (needed,) = (name for name, info in kind.model_fields.items() if info.is_required())
        assert section == kind(**{needed: given[needed]})
    documented = {yaml.safe_load(block)["corpus"]["kind"] for block in blocks}
    assert documented == {
        name for name, kind in kinds.items() if set(kind.model_fields) - shared != {"kind"}
    }


def assert_complete(section: BaseModel, but: Set[str] = frozenset()) -> None:
    """Every field of this section and of those in it is given."""
    assert section.model_fields_set | but == set(type(section).model_fields)
    for value in (getattr(section, name) for name in section.model_fields_set):
        if isinstance(value, BaseModel):
            assert_complete(value)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_local_link_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    missing = [
        target for target in targets if "://" not in target and not (page.parent / target).exists()
    ]
    assert not missing


def test_architecture_has_the_tables_of_the_code() -> None:
    text = stages.PAGE.read_text()
    assert text == stages.page_with_tables(text), "run `python -m docs.stages`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_line_is_one_that_the_command_line_takes(page: Path) -> None:
    blocks = re.findall(
        r"^```(?:console|bash)\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL
    )
    lines = re.findall(
        r"^(?:\$ )?(?:\S*bin/)?react-pipeline (.*)$", "\n".join(blocks), flags=re.MULTILINE
    )
    for line in lines:
        words = shlex.split(line, comments=True)
        command = typer.main.get_command(app)
        context = command.make_context("react-pipeline", words[:1], resilient_parsing=True)
        while hasattr(command, "resolve_command"):
            name, command, words = command.resolve_command(context, words)
            if not hasattr(command, "resolve_command"):
                command.make_context(
                    name, words, parent=context
                )  # raises at an unknown option or a missing argument


def test_the_citation_names_this_version_and_its_licence() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert (
        citation["license"]
        == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"]
    )


FROM_ELSEWHERE = {
    "README.md": "3.12 3.13 41.7 41.2",
    "docs/methods.md": "42.5 193.8 0.98 0.25 0.75",
    "docs/results.md": "1.12",
    "docs/scale.md": "3.07 0.999 63.7 16.6 12.1 193.4 104.5",
}
"""Versions, settings, and figures of papers and of machines, by page."""


@pytest.mark.parametrize("page", FROM_ELSEWHERE)
def test_a_figure_is_one_that_a_benchmark_wrote(page: str) -> None:
    figures = r"(?<![\w.:/-])\d{1,3}\.\d+(?![\w.])"
    written = re.findall(r"\d+\.\d+", (ROOT / "benchmarks" / "results.md").read_text())
    text = re.sub(r"```.*?```|\]\([^)]*\)", "", (ROOT / page).read_text(), flags=re.DOTALL)
    known = {*written, *(f"{float(figure):.1f}" for figure in written)}
    assert {*re.findall(figures, text)} - known <= {*FROM_ELSEWHERE[page].split()}
