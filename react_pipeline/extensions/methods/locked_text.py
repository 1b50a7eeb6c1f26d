"""`locked-text`: the image tower trains, the text tower is the base's."""

from react_pipeline.training import ModelMethod


class LockedText(ModelMethod):
    """The image tower trains, the text tower is the base's."""

    name = "locked-text"
    summary = "the image tower and the logit scale; the text tower is the base's"
    colour = "#c07a1c"
    defaults = {"learning_rate": 5e-5}

    def trains(self, name: str) -> bool:
        """The image tower."""
        return name.startswith("visual.")
