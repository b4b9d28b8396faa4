"""The channels that alerts go out by, one family a file, and the summaries of a night for CI."""
