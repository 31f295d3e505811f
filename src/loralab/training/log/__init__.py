"""What a run says and writes down while it goes on: progress, journal, samples, boards, curves, its record."""
