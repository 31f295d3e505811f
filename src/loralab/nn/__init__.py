"""What can be done with any `torch.nn.Module` or tensor: evaluation mode, quick dropout. It knows only torch."""
