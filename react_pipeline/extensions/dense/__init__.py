"""Detection and segmentation by the class names alone."""
