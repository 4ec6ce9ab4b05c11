"""The quickstart world: a whole Pairwise-RL run on a laptop, with no download."""
