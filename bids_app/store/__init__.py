"""conform-store: make, extend, verify and describe the aggregated dataset."""
