"""`locked-image`: the text tower trains, the image tower is the base's.

Source: LiT (Zhai et al. 2022, arXiv 2111.07991).
"""

from react_pipeline.training import ModelMethod


class LockedImage(ModelMethod):
    """Image vectors of a corpus stay valid."""

    name = "locked-image"
    summary = "the text tower and the logit scale; the image tower is the base's"
    colour = "#7a4fa3"
    defaults = {"learning_rate": 5e-5}

    def trains(self, name: str) -> bool:
        """The text tower."""
        from react_pipeline.clip import in_text_tower

        return in_text_tower(name)
