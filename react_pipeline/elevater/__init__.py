"""ELEVATER image classification: the 20 data sets and the protocol measured on them.

`table` says what the data sets are, the readers (`read_dataset`) find them on disk; the other modules measure. Does not
belong here: your own domains and their labelled images (`react_pipeline.retrieval.labelled`).
"""
