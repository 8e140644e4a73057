"""Records, and the pipeline that makes batches of micro-turns from them."""
