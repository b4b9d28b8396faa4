"""From the times of a night to verdicts, groups and incidents; reads no database."""
