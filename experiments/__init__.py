"""Studies of the claims of Pairwise-RL, one command for each table; the library imports nothing from here."""
