"""Verdicts without labels: a person judges the pictures on which two models disagree."""
