"""prl: Pairwise-RL, reinforcement learning from human feedback in which everything is a comparison of two responses."""

__version__ = "0.1.0"
