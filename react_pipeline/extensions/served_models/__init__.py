"""Customized models that MLflow loads and serves."""
