"""Advantages of sampled tokens."""
