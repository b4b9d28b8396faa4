"""From a suite and what is asked for to units of work, in order."""
