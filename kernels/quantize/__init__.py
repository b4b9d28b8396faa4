"""Quantizers in plain torch, written from the specifications: for weights and references."""
