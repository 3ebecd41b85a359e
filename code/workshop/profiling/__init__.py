"""One profiler for every rank, and what is read from its traces."""
