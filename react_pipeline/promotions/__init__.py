"""Promotions: the parts that `promotion` is made of."""
