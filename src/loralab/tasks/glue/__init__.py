"""GLUE: its nine tasks, their files and their outputs."""
