"""One page to look at, of what runs, comparisons and analyses wrote."""
