"""What an adapter learned: its directions, its size, its parts (paper §7)."""
