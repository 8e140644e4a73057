"""Training: loss, one jitted step, the loop, checkpoints."""
