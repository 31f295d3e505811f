"""Rates, ranks and targets tried side by side on one base, the worse stopped early."""
