"""REACT as a library: class names in, a customized CLIP out.

Every step reads published artifacts and a frozen configuration and publishes one artifact; `assets/` wraps each step
as a Dagster asset. Nothing here imports dagster, only modules named `tracking*` import mlflow, and importing this
package loads no torch.
"""

__version__ = "0.1.0"
