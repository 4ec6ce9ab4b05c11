"""Preference pairs from a policy's own responses: sample, judge in both orders, choose pairs, write ordinary rows."""
