"""Checkpoints as they are published, read without a copy of all weights and without running code from them."""
