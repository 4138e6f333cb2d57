"""Data: sharp photographs, synthetic camera motion, training pairs."""
