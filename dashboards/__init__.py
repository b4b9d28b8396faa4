"""A run and its history -> a static site. Imports tasks and kernels."""
