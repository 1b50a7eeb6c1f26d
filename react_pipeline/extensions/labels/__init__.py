"""Labels: predictions as folders of classes, and the labels that come back from them."""
