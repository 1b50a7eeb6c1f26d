"""Training: the parts that `customize` is made of."""
