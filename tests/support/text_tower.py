"""A checkpoint folder whose text tower and tokenizer come from transformers: a BERT of one layer
and eleven words.
"""

from __future__ import annotations

from pathlib import Path

import open_clip
import torch
from transformers import BertConfig, BertTokenizerFast

from react_pipeline.clip.model import from_parts, save

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "red",
    "circle",
    "square",
    "drawing",
    "of",
]


def write_bert(directory: Path) -> Path:
    """Write the text tower's configuration and tokenizer as `tiny-bert` into `directory`."""
    source = directory / "tiny-bert"
    source.mkdir()
    (source / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    BertTokenizerFast(str(source / "vocab.txt")).save_pretrained(source)
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    BertConfig(vocab_size=len(WORDS), max_position_embeddings=16, **sizes).save_pretrained(source)
    return source


def write_text_tower_checkpoint(directory: Path) -> Path:
    """Write `tiny-bert`, the parts, and `checkpoint`, which is returned, into `directory`."""
    source = write_bert(directory)
    text_cfg = {
        "hf_model_name": source.name,
        "hf_tokenizer_name": source.name,
        "hf_pooler_type": "mean_pooler",
        "hf_proj_type": "linear",
        "context_length": 12,
    }
    vision_cfg = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16}
    torch.manual_seed(0)
    model = open_clip.model.CustomTextCLIP(
        24, vision_cfg, {**text_cfg, "hf_model_name": str(source), "hf_model_pretrained": False}
    )
    model_cfg = {"embed_dim": 24, "vision_cfg": vision_cfg, "text_cfg": text_cfg}
    save(
        from_parts(model, model_cfg, {"mean": (0.5,) * 3, "std": (0.25,) * 3}, source),
        directory / "checkpoint",
    )
    return directory / "checkpoint"
