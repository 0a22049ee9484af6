"""What a stimulus is: its identity by content, near-duplicates, and a split into train and test that keeps them together."""
