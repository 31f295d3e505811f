"""Models: where they come from, how they are loaded, in which precision they compute, and where their parts
are.
"""
