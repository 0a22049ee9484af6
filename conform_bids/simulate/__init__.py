"""A BIDS dataset with known truth: its raw files, its fMRIPrep-shaped derivative, and what was put in.

`conform_bids.simulate.dataset.simulate_dataset` writes it; `conform_bids.simulate.settings.SimulationSettings` says how.
"""
