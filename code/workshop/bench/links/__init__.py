"""The parts of `workshop.lab1.measure_links`, one idea a file."""
