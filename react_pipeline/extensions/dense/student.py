"""Annotation-free training (MaskCLIP+): a small network learns from what the frozen map says of
unlabelled images.

Belongs here: pseudo labels on disk, the training, resuming it. Does not belong here: the map
(`maps`), what is measured (`results`). Unlike in MaskCLIP's code the map labels each image once and
whole, not each crop.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.models import get_model
from torchvision.transforms import v2

from react_pipeline.clip import read_weights
from react_pipeline.corpus import IMAGE_SUFFIXES, BadImage, decode_apart, progress
from react_pipeline.extensions.elevater import Files
from react_pipeline.store import InputError, Scratch, TrainingError
from react_pipeline.training import read_state, save_state, states_in

from .maps import Segmenter, normalized, padded, resized
from .sets import files_below
from .settings import DenseConfig

SAVE_EVERY = 100
BATCH, MOMENTUM, WEIGHT_DECAY, POWER, LAST = 16, 0.9, 5e-4, 0.9, 0.01
"""Of SGD, as in MaskCLIP+; the learning rate falls to `LAST` of the first."""
MULTIPLE = 32
"""Sides of a crop are multiples of the network's coarsest stride."""

Labelled = Callable[[int], tuple[Image.Image, NDArray[np.uint8]]]
"""Maps the number of an image to the image, as large as the student sees it, and its labels."""


class Student:
    """Gives every pixel of an image a class by a network of torchvision."""

    def __init__(self, segmenter: Segmenter, config: DenseConfig) -> None:
        """Build it with random weights, or a backbone from disk; equal seeds give equal weights.

        Raises:
            InputError: If torchvision has no such network, or the backbone's weights do not fit.
        """
        self.segmenter = segmenter
        self.config = config
        self.side = (config.short_side or segmenter.tower.size) // MULTIPLE * MULTIPLE
        field = f"student_model: {config.student_model!r}"
        try:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                self.network: Any = get_model(
                    config.student_model,
                    weights=None,
                    weights_backbone=None,
                    num_classes=segmenter.head.shape[1],
                )
            if path := config.student_backbone:
                field = f"student_backbone: {path}"
                given = read_weights(path)
                weights = {key.removeprefix("features."): value for key, value in given.items()}
                backbone = self.network.backbone
                # Without what the file has beyond it, such as a classifier.
                backbone.load_state_dict({key: weights[key] for key in backbone.state_dict()})
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            raise InputError(
                f"dense.{field} cannot be a network of torchvision: {error}"
            ) from error
        self.network.to(segmenter.clip.device)

    @torch.inference_mode()
    def __call__(self, image: Image.Image) -> NDArray[np.int64]:
        """Return class ids (H, W) of an image."""
        self.network.eval()
        pixels = normalized(self.segmenter.clip, resized(image, self.side))
        tall, wide = pixels.shape[-2:]
        logits = self.network(padded(pixels, MULTIPLE))["out"][..., :tall, :wide]
        whole = functional.interpolate(logits, (image.height, image.width), mode="bilinear")
        return whole[0].argmax(0).cpu().numpy()

    def train(self, root: Path, folder: str, scratch: Scratch, max_pixels: int) -> None:
        """Label the images of a folder and learn from them; killed in between, it resumes
        from its last state.

        Raises:
            InputError: If there is no image.
            TrainingError: If the loss is not finite.
        """
        source = Files(root, tuple(files_below(root, folder, IMAGE_SUFFIXES).values()))
        count = len(source.locations)
        if not count:
            raise InputError(f"dense.student_images: {root / folder} holds no image")

        # Read again whenever it is drawn: a data set of photographs does not fit in memory.
        def labelled(number: int) -> tuple[Image.Image, NDArray[np.uint8]]:
            try:
                image = resized(decode_apart(source(number), max_pixels), self.side)
            except BadImage as error:
                place = source.locations[number]
                raise InputError(f"{place}: no usable image ({error}); remove it") from error
            labels = scratch.keep(
                f"{number}.npy",
                lambda path: np.save(path, self.segmenter(image).astype(np.uint8)),
            )
            return image, np.load(labels)

        network = self.network.train()
        rate, steps = self.config.student_learning_rate, self.config.student_steps
        optimizer = torch.optim.SGD(
            network.parameters(), rate, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
        )
        left = range(self._resume(optimizer, scratch), steps)
        for step in progress(left, "student", "step", len(left)):
            fall = (1 - LAST) * (1 - step / steps) ** POWER + LAST
            optimizer.param_groups[0]["lr"] = rate * fall
            pixels, truth = self._batch(step, labelled, count)
            loss = functional.cross_entropy(network(pixels)["out"], truth)
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"student, step {step}: the loss is not finite; lower "
                    "dense.student_learning_rate"
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
                states = {"trained": network.state_dict(), "optimizer": optimizer.state_dict()}
                save_state({**states, "step": step + 1}, scratch)

    def _resume(self, optimizer: torch.optim.Optimizer, scratch: Scratch) -> int:
        """Load the newest state, if there is one; return the first step that is left."""
        for path in states_in(scratch)[-1:]:
            state = read_state(path, self.segmenter.clip.device)
            self.network.load_state_dict(state["trained"])
            optimizer.load_state_dict(state["optimizer"])
            return int(state["step"])
        return 0

    def _batch(self, step: int, labelled: Labelled, count: int) -> tuple[Tensor, Tensor]:
        """Return random crops, half of them mirrored: pixels (B, 3, S, S) and labels (B, S, S), a
        function of the step.
        """
        augment = v2.Compose([v2.RandomCrop(self.side), v2.RandomHorizontalFlip()])
        clip = self.segmenter.clip
        crops = []
        with torch.random.fork_rng():
            torch.manual_seed(step)
            for number in torch.randint(count, (BATCH,)).tolist():
                image, labels = labelled(number)
                truth = torch.from_numpy(labels).to(clip.device).float()[None, None]
                crops.append(augment(torch.cat([normalized(clip, image), truth], dim=1)))
        batch = torch.cat(crops)
        return batch[:, :3], batch[:, 3].long()
