"""Signal and noise of single-trial responses partitioned, and condition responses denoised."""
