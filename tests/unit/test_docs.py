"""The pages say what the code does: every field is listed, every link leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from react_pipeline import config
from react_pipeline.settings import training as training_config

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SECTIONS = (
    config.CorpusConfig,
    config.EncoderConfig,
    config.EmbeddingConfig,
    config.IndexConfig,
    config.RetrievalConfig,
    training_config.TrainingConfig,
    config.DomainConfig,
    config.EvaluationSetConfig,
    config.ElevaterConfig,
    config.AutomationConfig,
    config.PromotionConfig,
    config.PipelineConfig,
)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_field_stands_in_the_configuration_page(section: type[BaseModel]) -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    missing = [name for name in section.model_fields if not re.search(rf"[`.]{name}[`.\s]", page)]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_local_link_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert not missing
