"""Signal and noise of single-trial responses partitioned: the numerics of conform-psn."""
