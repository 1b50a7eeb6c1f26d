"""The recipe of docs/methods.md: a row and a function are all that a new method needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from react_pipeline.clip import methods
from react_pipeline.clip.methods import set_trainable
from react_pipeline.clip.model import load
from react_pipeline.project.project import Project
from react_pipeline.settings import training
from react_pipeline.settings.files import load_pipeline
from react_pipeline.store.errors import ConfigError


@pytest.fixture
def last_norm(monkeypatch: pytest.MonkeyPatch) -> str:
    """A method that trains the last norm of the image tower, added as the page says."""
    row, function = (
        {"last-norm": {"learning_rate": 3e-4, "steps": 7}},
        {"last-norm": lambda name: name.startswith("visual.ln_post.")},
    )
    monkeypatch.setattr(training, "METHOD_DEFAULTS", {**training.METHOD_DEFAULTS, **row})
    monkeypatch.setattr(methods, "TRAINED_PARTS", {**methods.TRAINED_PARTS, **function})
    return "last-norm"


def test_a_method_of_a_row_and_a_function_is_configured_and_trains_its_part(
    last_norm: str, make_project: Callable[..., Project], tiny_checkpoint: Path
) -> None:
    project = make_project(
        customization={"defaults": {}, "methods": {last_norm: {"weight_decay": 0.01}}}
    )
    chosen = project.config.customization.resolve(last_norm)
    assert (chosen.learning_rate, chosen.steps, chosen.weight_decay) == (3e-4, 7, 0.01)
    assert project.config.customization.resolve(last_norm + "-control") == chosen
    model = load(tiny_checkpoint).model
    trained = set_trainable(model, last_norm)
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert names == {"logit_scale", "visual.ln_post.weight", "visual.ln_post.bias"}
    assert trained == 2 * 32 + 1


def test_an_unknown_method_is_reported_once_with_those_there_are_and_hides_no_other_problem(
    tmp_path: Path,
) -> None:
    raw = {
        "corpus": {"kind": "demo"},
        "encoder": {"model": "demo"},
        "customization": {"methods": {"last-norm": {"steps": 5}, "full": {"steps": 0}}},
    }
    path = tmp_path / "pipeline.yaml"
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(ConfigError) as error:
        load_pipeline(path)
    (reported,) = [line for line in str(error.value).splitlines() if "last-norm" in line]
    assert reported.startswith(f"{path}: customization.methods.last-norm")
    assert "'last-norm'" in reported
    assert all(name in reported for name in training.METHOD_DEFAULTS)
    assert "customization.methods.full.steps" in str(error.value)


def test_the_page_names_tables_and_files_that_exist() -> None:
    root = Path(__file__).parents[1]
    recipe = (root / "docs" / "methods.md").read_text().split("## A new method")[1]
    for table, module in (
        ("METHOD_DEFAULTS", training),
        ("TRAINED_PARTS", methods),
        ("attach", methods),
    ):
        assert f"`{table}`" in recipe and hasattr(module, table)
        assert f"`{Path(str(module.__file__)).relative_to(root)}`" in recipe
