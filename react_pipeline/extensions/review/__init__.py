"""Review: a page on which a person looks through the pairs of a domain, and taking images down."""
