"""Automation: what is out of date, and what runs without a person.

Does not belong here: the partitions of domain files (`react_pipeline.assets`).
"""
