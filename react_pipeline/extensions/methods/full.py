"""`full`: everything trains. With few pairs it forgets fastest."""

from react_pipeline.training import ModelMethod


class Full(ModelMethod):
    """Everything trains. With few pairs it forgets fastest."""

    name = "full"
    summary = "every weight"
    colour = "#a83a5b"
    defaults = {"learning_rate": 1e-5}

    def trains(self, name: str) -> bool:
        """Every weight."""
        return True
