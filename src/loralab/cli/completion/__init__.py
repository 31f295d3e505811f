"""What the Tab key completes, and the script that tells a shell so: a file per shell."""
