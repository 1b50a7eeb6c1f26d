"""Availability: whether the encoder that a configuration names is known, and where its weights are.

Nothing is read or fetched. open_clip is imported only for names that are its own, as it takes
seconds. Does not belong here: loading an encoder (`pretrained`).
"""

import re
from pathlib import Path

from react_pipeline.project import absence
from react_pipeline.settings import HUB_PREFIX, EncoderConfig, did_you_mean, encoders
from react_pipeline.store import InputError

_RECORDED = ("model", "quick_gelu", "mean", "std", "resize_mode")
"""Fields that a checkpoint folder records itself."""
_HUB_NAME = re.compile(re.escape(HUB_PREFIX) + r"([\w.-]+/)?[\w.-]+(@[\w./-]+)?")


def require_available(encoder: EncoderConfig) -> None:
    """Refuse names that open_clip does not know, and weights that are not there; nothing is read or
    fetched.

    Of a model of the Hub only the form of its name is looked at.

    Raises:
        InputError: Naming the field of `encoder`, and the nearest names.
    """
    if built := encoders().get(encoder.model):
        built.packages()
        return
    weights = str(encoder.pretrained)
    path = Path(weights)
    if weights.startswith(HUB_PREFIX):
        if not _HUB_NAME.fullmatch(weights):
            raise InputError(
                f"encoder.model: {weights!r}: write {HUB_PREFIX}ORGANIZATION/NAME, as the Hub "
                "names it"
            )
        return
    import open_clip

    from react_pipeline.clip.architecture import GATED_PREFIX, read_config
    from react_pipeline.clip.model import find_weights

    if path.is_dir():
        read_config(path)
        find_weights(path, foreign=True)
        configured = encoder.model_fields_set & encoder.model_dump(exclude_none=True).keys()
        if idle := [name for name in _RECORDED if name in configured]:
            raise InputError(
                f"encoder.{idle[0]}: {path} records its own architecture, activation and "
                f"normalisation; remove {', '.join(idle)}"
            )
        return
    name = encoder.model.removeprefix(GATED_PREFIX)
    if open_clip.get_model_config(name) is None:
        meant = did_you_mean(name, open_clip.list_models(), "`open_clip.list_models()` lists them")
        raise InputError(f"encoder.model: open_clip knows no {name!r}; {meant}")
    tags = open_clip.list_pretrained_tags_by_model(name)
    if not path.is_file() and not open_clip.get_pretrained_cfg(name, weights):
        if path.is_absolute():
            raise InputError(f"encoder.pretrained: {absence(path)}")
        meant = did_you_mean(weights, tags, f"its tags are {', '.join(tags[:5]) or 'none'}")
        raise InputError(
            f"encoder.pretrained: {weights!r} is no tag of {name}, and no file or folder beside "
            f"pipeline.yaml; {meant}"
        )


def server_of_weights(encoder: EncoderConfig) -> str:
    """The URL of the server that the weights have to be fetched from; "" if they are on this
    machine.

    Only the caches of open_clip and of the Hub are looked at.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    if encoder.model in encoders():
        return ""
    weights = str(encoder.pretrained)
    names = ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    if weights.startswith(HUB_PREFIX):
        place, _, revision = weights.removeprefix(HUB_PREFIX).partition("@")
    else:
        import open_clip

        from react_pipeline.clip.architecture import GATED_PREFIX

        tag = open_clip.get_pretrained_cfg(encoder.model.removeprefix(GATED_PREFIX), weights)
        place, _, name = tag.get("hf_hub", "").rpartition("/")
        revision = ""
        names = [name] if name else names
        if not place:
            url = str(tag.get("url", ""))
            in_cache = Path("~/.cache/clip").expanduser() / url.rpartition("/")[2]
            return "" if in_cache.is_file() else url
    cached = (try_to_load_from_cache(place, name, revision=revision or None) for name in names)
    return "" if any(isinstance(path, str) for path in cached) else constants.ENDPOINT
