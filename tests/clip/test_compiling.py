"""Compiling: on a GPU for long runs; where it fails the same comes out, after one warning."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from support.methods import attach, set_trainable
from torch._dynamo.backends.common import aot_autograd

from react_pipeline.clip import ImageTower, load


def breaks(*_: Any) -> Any:
    raise ValueError("no compiler of " + breaks.where)


@pytest.mark.parametrize(
    "backend",
    [breaks, aot_autograd(fw_compiler=lambda graph, _: graph.forward, bw_compiler=breaks)],
    ids=["forwards", "backwards"],
)
def test_a_compiler_that_fails_is_left_after_one_warning(
    tiny_checkpoint: Path,
    backend: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    request: pytest.FixtureRequest,
) -> None:
    torch._dynamo.reset()  # what other tests compiled
    breaks.where = request.node.name
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    model = load(tiny_checkpoint).model
    attach(model, "gated-image", 2)
    set_trainable(model, "gated-image")
    images = torch.rand(2, 3, 32, 32)
    plain, ours = (ImageTower(model, is_compiled=one)(images) for one in (False, True))
    assert torch.equal(plain, ours)
    ours.sum().backward()
    warned = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert len(warned) == 1 and breaks.where in warned[0].getMessage()
