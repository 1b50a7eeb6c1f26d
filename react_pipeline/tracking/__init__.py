"""Tracking: what is written to MLflow, and how. Only this package imports it."""

from react_pipeline.tracking.log import Tracking as Tracking
