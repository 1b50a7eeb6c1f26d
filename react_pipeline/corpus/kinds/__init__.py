"""Kinds of corpus: one module each, with the fields of a kind and all that the pipeline asks of it.

Does not belong here: reading tars, tables and vectors, which the modules of `corpus` do.
"""
