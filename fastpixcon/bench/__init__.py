"""The benchmark suite, ``fastpixcon bench``: every workload against every peer, and against losses of a user's own."""
