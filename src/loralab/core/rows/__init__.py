"""Several adapters in one batch: where its sequences are in what a layer receives, and who speaks for each."""
