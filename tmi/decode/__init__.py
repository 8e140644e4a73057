"""The streaming decoder: one compiled call per micro-turn, all state explicit."""
