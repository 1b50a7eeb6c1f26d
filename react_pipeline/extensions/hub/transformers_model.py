"""The model as `transformers.CLIPModel.from_pretrained` loads it: configuration, weights, tokenizer
and preprocessing.

Does not belong here: open_clip's form of it (`use`). Shapes: W width, D embedding dimension.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from open_clip.transform import PreprocessCfg
from torch import Tensor
from torch.nn.functional import normalize

from react_pipeline.clip import Clip, class_prompts, load
from react_pipeline.extensions.hub.exported_folder import ModelForm
from react_pipeline.extensions.hub.formats import Exported
from react_pipeline.extensions.hub.onnx_model import (
    CHECKED,
    MAX_DIFFERENCE,
    largest_difference,
    random_pictures,
)
from react_pipeline.store import InputError

_START, _END = "<|startoftext|>", "<|endoftext|>"
MAX_PROMPTS = 64
"""Of the domain, whose vectors are compared."""

_RESAMPLING = {"bilinear": 2, "bicubic": 3}
"""Pillow's numbers."""

_NAMES = (
    (r"^text\.", ""),  # of a text tower that is a module of its own
    (r"^visual\.class_embedding", "vision_model.embeddings.class_embedding"),
    (r"^visual\.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    (r"^visual\.conv1\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual\.ln_pre\.", "vision_model.pre_layrnorm."),
    (r"^visual\.ln_post\.", "vision_model.post_layernorm."),
    (r"^visual\.proj$", "visual_projection.weight"),
    (r"^visual\.transformer\.resblocks\.", "vision_model.encoder.layers."),
    (r"^transformer\.resblocks\.", "text_model.encoder.layers."),
    (r"^token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"^positional_embedding", "text_model.embeddings.position_embedding.weight"),
    (r"^ln_final\.", "text_model.final_layer_norm."),
    (r"^text_projection$", "text_projection.weight"),
    (r"\.ln_(\d)\.", r".layer_norm\1."),
    (r"\.c_fc\.", ".fc1."),
    (r"\.c_proj\.", ".fc2."),
    (r"\.attn\.", ".self_attn."),
)
"""What each part of a name of open_clip is called in transformers; all are applied, in this order.
"""


def write_transformers(exported: Exported) -> float:
    """Add the files that transformers reads to a folder that holds the model.

    Returns:
        The largest difference between unit vectors of both, over random pictures and the domain's
        prompts.

    Raises:
        InputError: If transformers' CLIPModel cannot compute what this model does.
    """
    from transformers import AutoTokenizer, CLIPConfig, CLIPModel

    clip = load(exported.folder)
    _require_plain(clip, exported.loading)
    try:
        model = CLIPModel(CLIPConfig(**_config(clip))).eval()
        model.load_state_dict(_renamed(clip.model.state_dict()))
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        raise _refusal(" ".join(str(error).split())[:200]) from error
    model.save_pretrained(exported.folder)
    _write_tokenizer(clip, exported.folder)
    _write_preprocessing(clip, exported.folder)
    prompts = class_prompts(exported.domain)["prompt"].tolist()[:MAX_PROMPTS]
    read = CLIPModel.from_pretrained(exported.folder).eval()
    tokens = AutoTokenizer.from_pretrained(exported.folder)(
        prompts, padding=True, truncation=True, return_tensors="pt"
    )
    images = torch.stack([clip.preprocess(picture) for picture in random_pictures(CHECKED)])
    with torch.inference_mode():
        outputs = [read.vision_model(images).pooler_output, read.text_model(**tokens).pooler_output]
        projected = [read.visual_projection(outputs[0]), read.text_projection(outputs[1])]
    ours = [normalize(one, dim=-1).numpy() for one in projected]
    exact = [clip.encode_images(images).numpy(), clip.encode_texts(prompts).numpy()]
    difference = max(map(largest_difference, ours, exact))
    if not difference <= MAX_DIFFERENCE:
        raise _refusal(f"its vectors would differ by {difference:g}")
    return difference


def _require_plain(clip: Clip, loading: ModelForm) -> None:
    """Refuse what CLIPModel has no parts for; smaller differences show in the comparison."""
    text_cfg = clip.model_cfg["text_cfg"]
    if loading.gated:
        raise _refusal("it has gated blocks")
    if loading.new_modules:
        raise _refusal(f"it has {loading.new_modules}")
    if not hasattr(clip.model.visual, "transformer"):
        raise _refusal("its image tower is no vision transformer of open_clip")
    if text_cfg.get("hf_model_name") or text_cfg.get("hf_tokenizer_name"):
        raise _refusal("its text tower or tokenizer is another one than CLIP's")
    if text_cfg.get("tokenizer_kwargs"):
        raise _refusal("its tokenizer has options")
    if _prepared(clip)["resize_mode"] == "longest":
        raise _refusal("its images are padded")


def _refusal(why: str) -> InputError:
    return InputError(
        f"--format transformers: CLIPModel cannot compute this model: {why}; use open_clip's form"
    )


def _config(clip: Clip) -> dict[str, Any]:
    """The fields of `CLIPConfig`; sizes are read from the weights, so that no default matters."""
    model, visual = clip.model, clip.model.visual
    text = getattr(model, "text", model)
    activation = "quick_gelu" if clip.model_cfg.get("quick_gelu") else "gelu"
    (size, _), (patch, _) = visual.image_size, visual.patch_size

    def tower(transformer: Any) -> dict[str, Any]:
        block = transformer.resblocks[0]
        return {
            "hidden_size": transformer.width,
            "intermediate_size": block.mlp.c_fc.out_features,
            "num_hidden_layers": len(transformer.resblocks),
            "num_attention_heads": block.attn.num_heads,
            "hidden_act": activation,
            "layer_norm_eps": block.ln_1.eps,
            "projection_dim": clip.dimension,
        }

    vision_config = {**tower(visual.transformer), "image_size": size, "patch_size": patch}
    text_config = {
        **tower(text.transformer),
        "vocab_size": text.vocab_size,
        "max_position_embeddings": text.context_length,
    }
    return {
        "projection_dim": clip.dimension,
        "vision_config": vision_config,
        "text_config": text_config,
    }


def _renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the names of transformers; packed projections become three, and projections
    (W, D) are transposed.
    """
    renamed = {}
    for name, tensor in weights.items():
        for pattern, replacement in _NAMES:
            name = re.sub(pattern, replacement, name)
        if name.endswith("projection.weight"):
            renamed[name] = tensor.T.contiguous()
        elif ".in_proj_" in name:
            for part, one in zip("qkv", tensor.chunk(3), strict=True):
                renamed[name.replace("in_proj_", f"{part}_proj.")] = one.contiguous()
        else:
            renamed[name] = tensor
    return renamed


def _write_tokenizer(clip: Clip, folder: Path) -> None:
    tokenizer: Any = clip.tokenizer
    special = {"<start_of_text>": _START, "<end_of_text>": _END}
    vocabulary = {special.get(text, text): number for text, number in tokenizer.encoder.items()}
    merges = ["#version: 0.2", *(" ".join(pair) for pair in tokenizer.bpe_ranks)]
    (folder / "merges.txt").write_text("\n".join(merges) + "\n", encoding="utf-8")
    _write(folder / "vocab.json", vocabulary)
    about = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": clip.model.context_length,
        "bos_token": _START,
        "eos_token": _END,
        "unk_token": _END,
        "pad_token": _END,
        "do_lower_case": True,
    }
    _write(folder / "tokenizer_config.json", about)


def _prepared(clip: Clip) -> dict[str, Any]:
    return {**asdict(PreprocessCfg()), **clip.preprocess_cfg}


def _write_preprocessing(clip: Clip, folder: Path) -> None:
    prepared = _prepared(clip)
    size = clip.model.visual.image_size[0]
    square = {"height": size, "width": size}
    cropped = prepared["resize_mode"] == "shortest"
    about = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": size} if cropped else square,
        "resample": _RESAMPLING.get(prepared["interpolation"], 3),
        "do_center_crop": cropped,
        "crop_size": square,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(prepared["mean"]),
        "image_std": list(prepared["std"]),
    }
    _write(folder / "preprocessor_config.json", about)


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")
