"""The folder of a run: what may lie in it, who may write into it, and what its config may ask for."""
