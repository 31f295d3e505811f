"""How each kind of result becomes a section of the report."""
