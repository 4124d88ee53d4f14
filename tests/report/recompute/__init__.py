"""`summary.json` once more, from the run folder's files alone: what `test_recompute` compares."""
