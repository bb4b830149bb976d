"""What takes minutes: faults at every point, and load under faults."""
