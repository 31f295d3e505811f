"""What an adapter's folder needs to be given to others: its card, what of it may leave, and the Hub."""
