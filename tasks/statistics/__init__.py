"""Arithmetic of noisy histories: floats in, floats and records out; no clock, no database, no hidden randomness."""
