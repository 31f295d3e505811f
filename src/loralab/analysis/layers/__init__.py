"""What of a model is needed: blocks left out, blocks replaced by affine maps."""
