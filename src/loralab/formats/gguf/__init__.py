"""Adapters as llama.cpp reads them."""
