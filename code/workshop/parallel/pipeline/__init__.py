"""Pipeline parallelism: stages on ranks, micro-batches in a schedule."""
