"""python -m flows: the console command where the package is on the path but not installed."""

from flows.cli import script

script()
