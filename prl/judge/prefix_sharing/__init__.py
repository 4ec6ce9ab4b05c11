"""Prefix sharing: comparisons with equal beginnings compute them once."""
