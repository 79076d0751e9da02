"""Models as files that other programs run, each with a certificate of what it computes."""
