"""This engine compared with public code on the same weights: tokens and times. One file per peer."""
