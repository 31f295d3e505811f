"""A conversation: what is said and by whom, its commands, and the terminal; whoever answers is given from outside."""
