"""Pictures by the million: what one machine does, done by many of Ray's. Needs Ray and pyarrow, the extra `cluster`."""
