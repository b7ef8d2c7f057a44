"""This engine beside public code on the same weights: same tokens, and both times. One file a peer."""
