"""`auto` is what the device runs fastest, is recorded for what it came to, and is no part of any
identity.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from support.vectors import read_vectors

from react_pipeline.clip import device, precision
from react_pipeline.clip.base import publish_base
from react_pipeline.clip.model import load
from react_pipeline.clip.precision import arithmetic, choose_precision, speedup
from react_pipeline.corpus.corpus import publish_corpus
from react_pipeline.embedding.embed import embed_corpus
from react_pipeline.embedding.encoder import Encoder
from react_pipeline.extensions.doctor.diagnosis import diagnose
from react_pipeline.indexing import exact
from react_pipeline.lineage import resolve
from react_pipeline.project.project import Project
from react_pipeline.training.customization import customize
from react_pipeline.training.step import TrainingStep

Make = Callable[..., Project]


@pytest.fixture(autouse=True)
def _fresh_warnings() -> None:
    device.log_once.cache_clear()


@pytest.mark.parametrize(
    ("measured", "chosen"), [(8.0, "bf16"), (1.3, "bf16"), (1.0, "fp32"), (0.01, "fp32")]
)
def test_auto_on_a_processor_is_what_the_probe_finds_faster(
    monkeypatch: pytest.MonkeyPatch, measured: float, chosen: str
) -> None:
    monkeypatch.setattr(precision, "speedup", lambda name, device: measured)
    assert choose_precision("auto", "cpu") == chosen


@pytest.mark.parametrize(
    ("capability", "chosen"),
    [((9, 0), "bf16"), ((8, 0), "bf16"), ((7, 5), "fp16"), ((7, 0), "fp16"), ((6, 1), "fp32")],
)
def test_auto_on_a_gpu_follows_its_compute_capability(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], chosen: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_precision("auto", "cuda") == chosen


def test_the_probe_measures_a_ratio() -> None:
    assert speedup("bf16", "cpu") > 0
    assert speedup("fp32", "cpu") > 0


def test_a_slow_explicit_precision_warns_once_with_the_ratio(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(precision, "speedup", lambda name, device: 0.01)
    with caplog.at_level(logging.WARNING):
        assert [choose_precision("bf16", "cpu", "embedding.precision") for _ in range(3)] == [
            "bf16"
        ] * 3
    assert len(caplog.messages) == 1
    assert "embedding.precision" in caplog.messages[0] and "100.0" in caplog.messages[0]


def test_an_explicit_fast_or_full_precision_warns_of_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(precision, "speedup", lambda name, device: 3.0 if name == "bf16" else 0.5)
    with caplog.at_level(logging.WARNING):
        assert (choose_precision("bf16", "cpu"), choose_precision("fp32", "cpu")) == (
            "bf16",
            "fp32",
        )
    assert not caplog.messages


def test_what_auto_chose_is_in_the_manifest_alone(
    make_project: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(embedding={"precision": "auto"})
    publish_corpus(project)
    publish_base(project)
    made = {}
    for measured, name in ((8.0, "bf16"), (0.01, "fp32")):
        monkeypatch.setattr(
            precision, "speedup", lambda _name, _device, measured=measured: measured
        )
        fingerprint = resolve(project, "corpus_embeddings").fingerprint
        artifact = embed_corpus(project)
        assert artifact.fingerprint == fingerprint
        made[name] = artifact
    # Made in bf16, and fresh on the processor that would take fp32.
    assert made["fp32"].reused and made["fp32"].counts["precision"] == "bf16"


@pytest.mark.parametrize("half", ["bf16", "fp16"])
def test_vectors_of_half_precision_agree_with_full_ones(make_project: Make, half: str) -> None:
    vectors = {}
    for name in ("fp32", half):
        project = make_project(embedding={"precision": name})
        publish_corpus(project)
        publish_base(project)
        artifact = embed_corpus(project)
        assert artifact.counts["precision"] == name
        vectors[name] = torch.from_numpy(read_vectors(artifact, "image")).float()
    cosines = torch.nn.functional.cosine_similarity(vectors["fp32"], vectors[half])
    assert float(cosines.min()) > 0.999


def test_doctor_reports_what_auto_is_here(tiny_project: Project) -> None:
    found = next(finding for finding in diagnose(tiny_project.path) if finding.what == "precision")
    assert f"auto is {choose_precision('auto', 'cpu')}" in found.detail


FLAGS = [
    (torch.backends.cudnn, "allow_tf32"),
    (torch.backends.cuda.matmul, "allow_tf32"),
    (torch.backends.cuda.matmul, "allow_fp16_reduced_precision_reduction"),
    (torch.backends.cuda.matmul, "allow_bf16_reduced_precision_reduction"),
]


def flags() -> list[bool]:
    return [getattr(*flag) for flag in FLAGS]


@pytest.fixture
def outside() -> Iterator[list[bool]]:
    """The settings of a process that allows all of it."""
    before = flags()
    for flag in FLAGS:
        setattr(*flag, True)
    yield flags()
    for flag, value in zip(FLAGS, before, strict=True):
        setattr(*flag, value)


def test_importing_changes_no_setting_of_torch() -> None:
    code = """
import torch
def flags():
    matmul = torch.backends.cuda.matmul
    reductions = matmul.allow_fp16_reduced_precision_reduction, matmul.allow_bf16_reduced_precision_reduction
    return torch.backends.cudnn.allow_tf32, matmul.allow_tf32, reductions
before = flags()
import react_pipeline.clip.model, react_pipeline.embedding.encoder, react_pipeline.training.train
assert flags() == before
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("name", "inside"), [("fp32", [False] * 4), ("tf32", [True, True, False, False])]
)
def test_a_precision_is_what_its_name_says_and_ends(
    outside: list[bool], name: str, inside: list[bool]
) -> None:
    with pytest.raises(RuntimeError), arithmetic(name):
        assert flags() == inside
        raise RuntimeError
    assert flags() == outside


def test_tf32_is_for_gpus() -> None:
    assert choose_precision("tf32", "cpu") == "fp32"
    assert choose_precision("tf32", "cuda") == "tf32"


def test_search_encoding_and_steps_set_what_the_precision_says(
    outside: list[bool],
    tiny_checkpoint: Path,
    make_project: Make,
    _retrieved_store: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: dict[str, list[bool]] = {}

    def watch(name: str, holder: object, method: str) -> None:
        whole = getattr(holder, method)

        def watched(*args: object, **kwargs: object) -> object:
            seen[name] = flags()
            return whole(*args, **kwargs)

        monkeypatch.setattr(holder, method, watched)

    clip = load(tiny_checkpoint)
    watch("model", clip.model, "encode_image")
    pixels = torch.zeros(1, 3, *[clip.model.visual.image_size[0]] * 2)
    clip.encode_images(pixels)
    watch("encoder", Encoder, "_autocast")
    Encoder(load(tiny_checkpoint), "tf32").images(pixels)
    Encoder(load(tiny_checkpoint), "fp32").texts(clip.tokenize(["a"]))
    watch("search", exact, "_near_best")
    vectors = np.eye(4, dtype=np.float32)
    blocks = [(0, torch.from_numpy(vectors))]
    exact.best_hits(vectors, 1, blocks, lambda rows: vectors[rows])
    watch("step", TrainingStep, "take")
    defaults = {"steps": 2, "batch_size": 8, "workers": 0, "last_k_layers": 2, "warmup_steps": 1}
    project = make_project(customization={"defaults": {**defaults, "precision": "fp32"}})
    shutil.copytree(_retrieved_store, project.config.store, dirs_exist_ok=True)
    customize(project, "shapes", "gated-image")
    assert set(seen) == {"model", "encoder", "search", "step"}
    assert all(values == [False] * 4 for values in seen.values()), seen
    assert flags() == outside
