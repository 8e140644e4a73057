"""One file per experiment: `get_config()`, and `sweep()` where there are several."""
