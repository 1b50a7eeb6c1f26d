"""Annotation-free training (MaskCLIP+): a small network learns from what the frozen map says of
unlabelled images.

Belongs here: pseudo labels on disk, the training, resuming it. Does not belong here: the map
(`dense_maps`), what is measured (`dense_results`). Unlike in MaskCLIP's code the map labels each
image once and whole, not each crop.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torchvision.models import get_model
from tqdm import tqdm

from react_pipeline.clip import read_weights
from react_pipeline.corpus import decode_image
from react_pipeline.extensions.elevater import Files
from react_pipeline.store import InputError, Scratch, TrainingError
from react_pipeline.training import read_state, save_state, states_in

from .maps import Segmenter, normalized, padded, resized
from .sets import files_below
from .settings import IGNORED, DenseConfig

SAVE_EVERY = 100
MOMENTUM, WEIGHT_DECAY, POWER, LAST = 0.9, 5e-4, 0.9, 0.01
"""Of SGD, as in MaskCLIP+; the learning rate falls to `LAST` of the first."""
MULTIPLE = 32
"""Sides of a crop are multiples of the network's coarsest stride."""
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")


class Student:
    """A network of torchvision's that gives every pixel a class."""

    def __init__(self, segmenter: Segmenter, config: DenseConfig) -> None:
        """Build it with random weights, or a backbone from disk; equal seeds give equal weights.

        Raises:
            InputError: If torchvision has no such network, or the backbone's weights do not fit.
        """
        self.segmenter = segmenter
        self.config = config
        self.side = (config.short_side or segmenter.tower.size) // MULTIPLE * MULTIPLE
        name = config.student_model
        try:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                self.network: Any = get_model(
                    name, weights=None, weights_backbone=None, num_classes=segmenter.vectors.count
                )
        except (ValueError, TypeError) as error:
            raise InputError(
                f"dense.student_model: {config.student_model!r} is none of torchvision's: {error}"
            ) from error
        if path := config.student_backbone:
            weights = {
                key.removeprefix("features."): value for key, value in read_weights(path).items()
            }
            backbone = self.network.backbone
            try:
                # Without what the file has beyond it, such as a classifier.
                backbone.load_state_dict({key: weights[key] for key in backbone.state_dict()})
            except (KeyError, RuntimeError) as error:
                raise InputError(
                    f"dense.student_backbone: {path} does not fit {name}: {error}"
                ) from error
        self.network.to(segmenter.clip.device)

    @torch.inference_mode()
    def __call__(self, image: Image.Image) -> NDArray[np.int64]:
        """Class ids (H, W) of an image."""
        self.network.eval()
        pixels = normalized(self.segmenter.clip, resized(image, self.side))
        tall, wide = pixels.shape[-2:]
        logits = self.network(padded(pixels, MULTIPLE))["out"][..., :tall, :wide]
        return (
            functional.interpolate(logits, (image.height, image.width), mode="bilinear")[0]
            .argmax(0)
            .cpu()
            .numpy()
        )

    def train(self, root: Path, folder: str, scratch: Scratch, max_pixels: int) -> None:
        """Label the images of a folder and learn from them; killed in between, it resumes
        from its last state.

        Raises:
            InputError: If there is no image.
            TrainingError: If the loss is not finite.
        """
        files = files_below(root, folder)
        locations = tuple(
            where for name, where in files.items() if name.lower().endswith(EXTENSIONS)
        )
        if not locations:
            raise InputError(
                f"dense.student_images: {root / folder} holds no image ({', '.join(EXTENSIONS)})"
            )
        source = Files(root, locations)

        # Read again whenever it is drawn: a data set of photographs does not fit in memory.
        def labelled(number: int) -> tuple[Image.Image, NDArray[np.uint8]]:
            image = resized(decode_image(source(number), max_pixels), self.side)
            return image, self._labels(image, scratch, number)

        for number in tqdm(range(len(locations)), "pseudo labels", disable=None):
            labelled(number)
        network = self.network.train()
        optimizer = self._optimizer()
        states = _States(scratch, network, optimizer, self.segmenter.clip.device)
        steps = self.config.student_steps
        for step in tqdm(range(states.resume(), steps), "student", disable=None):
            for group in optimizer.param_groups:
                fall = (1 - LAST) * (1 - step / steps) ** POWER + LAST
                group["lr"] = self.config.student_learning_rate * fall
            loss = self._loss(network, self._batch(step, labelled, len(locations)))
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"student, step {step}: the loss is not finite; lower "
                    "dense.student_learning_rate"
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
                states.save(step + 1)

    def _optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            self.network.parameters(),
            self.config.student_learning_rate,
            momentum=MOMENTUM,
            weight_decay=WEIGHT_DECAY,
        )

    def _labels(self, image: Image.Image, scratch: Scratch, number: int) -> NDArray[np.uint8]:
        """What the frozen map says of an image, computed once."""

        def write(path: Path) -> None:
            np.save(path, self.segmenter(image).astype(np.uint8))

        return np.load(scratch.keep(f"{number}.npy", write))

    def _batch(
        self,
        step: int,
        labelled: Callable[[int], tuple[Image.Image, NDArray[np.uint8]]],
        count: int,
    ) -> tuple[Tensor, Tensor]:
        """Random crops, half of them mirrored: pixels (B, 3, S, S) and labels (B, S, S), a function
        of the step.
        """
        chance = np.random.default_rng((0, step))
        pixels = []
        truths = []
        for number in chance.integers(count, size=self.config.student_batch):
            image, labels = labelled(int(number))
            left, top = (
                int(chance.integers(0, max(side - self.side, 0) + 1)) for side in image.size
            )
            crop = normalized(
                self.segmenter.clip, image.crop((left, top, left + self.side, top + self.side))
            )
            truth = torch.full((self.side, self.side), IGNORED)
            part = torch.from_numpy(
                labels[top : top + self.side, left : left + self.side].astype(np.int64)
            )
            truth[: part.shape[0], : part.shape[1]] = part
            mirrored = chance.random() < 0.5
            pixels.append(crop.flip(-1) if mirrored else crop)
            truths.append(truth.flip(-1) if mirrored else truth)
        return torch.cat(pixels), torch.stack(truths).to(self.segmenter.clip.device)

    @staticmethod
    def _loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        pixels, truth = batch
        return functional.cross_entropy(network(pixels)["out"], truth, ignore_index=IGNORED)


@dataclass
class _States:
    """States of a training, which a killed one resumes from."""

    scratch: Scratch
    network: nn.Module
    optimizer: torch.optim.Optimizer
    device: str

    def resume(self) -> int:
        """Load the newest state that is whole; return the first step that is left."""
        for folder in reversed(states_in(self.scratch)):
            if (state := read_state(folder, self.device)) is None:
                shutil.rmtree(folder)
                continue
            self.network.load_state_dict(state["trained"])
            self.optimizer.load_state_dict(state["optimizer"])
            return int(state["step"])
        return 0

    def save(self, step: int) -> None:
        """Save the state before a step."""
        state = {
            "trained": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": step,
        }
        save_state(state, self.scratch)
