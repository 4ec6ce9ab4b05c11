"""Pairs and demonstrations from a policy's own responses: sample, judge in both orders, choose, write ordinary rows."""
