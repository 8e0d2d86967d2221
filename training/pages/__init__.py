"""The loop, its datasets, runs, evaluations and versions, as pages."""
