"""Prefix sharing: texts with equal beginnings compute them once."""
