"""The contestants of `workshop.lab1.compare_data_parallel`."""
