"""A run of several processes: what all must see alike, a base in parts, and what followers have instead of files."""
