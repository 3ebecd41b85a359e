"""The contestants of `workshop.lab1.compare_ddp`."""
