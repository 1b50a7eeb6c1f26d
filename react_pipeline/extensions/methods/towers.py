"""Methods that train whole towers: `full`, `locked-text`, `locked-image` and `gated-both`.

`gated-both` is a row of REACT's own ablation. Source of `locked-image`: LiT (Zhai et al. 2022,
arXiv 2111.07991).
"""

from react_pipeline.training import GatedImage, ModelMethod


class Full(ModelMethod):
    """Everything trains. With few pairs it forgets fastest."""

    name = "full"
    summary = "every weight"
    defaults = {"learning_rate": 1e-5}

    def trains(self, name: str) -> bool:
        """Every weight."""
        return True


class LockedText(ModelMethod):
    """The image tower trains, the text tower is the base's."""

    name = "locked-text"
    summary = "the image tower and the logit scale; the text tower is the base's"
    defaults = {"learning_rate": 5e-5}

    def trains(self, name: str) -> bool:
        """The image tower."""
        return name.startswith("visual.")


class LockedImage(ModelMethod):
    """The text tower trains, and image vectors of a corpus stay valid."""

    name = "locked-image"
    summary = "the text tower and the logit scale; the image tower is the base's"
    defaults = {"learning_rate": 5e-5}

    def trains(self, name: str) -> bool:
        """The text tower."""
        from react_pipeline.clip import in_text_tower

        return in_text_tower(name)


class GatedBoth(GatedImage):
    """`gated-image` with the text tower unlocked."""

    name = "gated-both"
    summary = (
        "new gated blocks in front of the last vision layers, and the text tower; every weight of "
        "the image tower of the base is as it was"
    )
    defaults = {"learning_rate": 5e-5}

    def trains(self, name: str) -> bool:
        """The gated blocks and the text tower."""
        from react_pipeline.clip import in_text_tower

        return super().trains(name) or in_text_tower(name)
