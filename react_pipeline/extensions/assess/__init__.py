"""Assess: what a finished run of `predict` met that its model was not made for."""
