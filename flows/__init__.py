"""The flows: each reads as one sentence per stage. Imports dashboards, tasks and kernels."""
