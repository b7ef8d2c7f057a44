"""Tasks, training, sweeps, records and figures."""
