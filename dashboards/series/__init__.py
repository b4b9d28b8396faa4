"""A page for every series: ten thousand of them, each drawn on its own in a few milliseconds."""
