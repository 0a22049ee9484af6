"""Encoding models of brain responses to stimuli, and a population model that adapts to a new person from a few images."""
