"""`gated-both`: gated blocks, and the text tower trains too: a row of REACT's own ablation."""

from react_pipeline.training import GatedImage


class GatedBoth(GatedImage):
    """`gated-image` with the text tower unlocked."""

    name = "gated-both"
    summary = (
        "new gated blocks in front of the last vision layers, and the text tower; every weight of "
        "the image tower of the base is as it was"
    )
    colour = "#6b8fd6"
    defaults = {"learning_rate": 5e-5}

    def trains(self, name: str) -> bool:
        """The gated blocks and the text tower."""
        from react_pipeline.clip import in_text_tower

        return super().trains(name) or in_text_tower(name)
