"""Data files of any kind as rows. Nothing here knows what the rows mean."""
