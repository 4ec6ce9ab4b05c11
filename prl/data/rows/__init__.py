"""Rows of data files: read from each kind of file, checked, and turned into typed records."""
