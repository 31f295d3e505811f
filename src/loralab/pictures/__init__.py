"""How figures look, and how they are written. Nothing here knows what they show."""
