"""The depths of a classifier, found from its autograd graph, and their capture in one pass."""
