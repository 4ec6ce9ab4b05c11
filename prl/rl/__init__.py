"""The reinforcement learning loop without Lightning: experience, minibatches, health, phases."""
