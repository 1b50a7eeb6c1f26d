"""ELEVATER: 20 data sets of image classification, their protocols and submissions; image-text
retrieval.
"""
