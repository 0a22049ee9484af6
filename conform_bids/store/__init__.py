"""The aggregated dataset: everybody's trials in one store, with a split that does not leak; written, appended to, read and verified."""
