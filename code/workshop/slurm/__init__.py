"""A client of any Slurm cluster: submit, wait, cancel, and site profiles."""
