"""The stages: plain functions with thin Prefect wrappers, one noun a file. Imports kernels only."""
