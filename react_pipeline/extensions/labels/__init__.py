"""Labels: predictions written for other tools, and the labels that come back from them."""
