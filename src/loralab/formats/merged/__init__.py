"""Standalone model folders with an adapter merged, proved before they appear."""
