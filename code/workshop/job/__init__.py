"""What a job of ranks needs: launch, metrics, clocks and failures."""
