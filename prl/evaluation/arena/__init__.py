"""Arena of several players: their scale, its intervals, contradictions, and which comparison to make next."""
