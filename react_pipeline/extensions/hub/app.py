"""Label a picture with the classes of the model in this folder: a Gradio app, as a Space of the Hub
runs it, or `pip install gradio -r requirements.txt; python app.py`.
"""

import importlib
import json
import os
from pathlib import Path

import open_clip
import torch
from PIL import Image
from safetensors.torch import load_file

os.chdir(Path(__file__).resolve().parent)  # open_clip finds the parts of a model by relative paths
if Path("gated_blocks.py").exists():
    importlib.import_module("gated_blocks")

MODEL, _, PREPROCESS = open_clip.create_model_and_transforms("local-dir:.")
MODEL.eval()
HEAD = load_file("head.safetensors")
ABOUT = json.loads(Path("head.json").read_text(encoding="utf-8"))
TEMPERATURE = json.loads(Path("calibration.json").read_text(encoding="utf-8"))["temperature"] or 1


def classify(picture: Image.Image | None) -> dict[str, float]:
    """The probability of each class; none without a picture."""
    if picture is None:
        return {}
    with torch.inference_mode():
        vector = MODEL.encode_image(PREPROCESS(picture.convert("RGB"))[None], normalize=True)
        scores = (vector @ HEAD["head"] + HEAD.get("bias", 0))[0]
        confidences = (ABOUT["logit_scale"] / TEMPERATURE * scores).softmax(dim=0).tolist()
    return dict(zip(ABOUT["classes"], confidences, strict=True))


if __name__ == "__main__":
    import gradio

    gradio.Interface(
        classify, gradio.Image(type="pil"), gradio.Label(num_top_classes=5), flagging_mode="never"
    ).launch()
