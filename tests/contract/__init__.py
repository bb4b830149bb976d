"""What a storage promises, on every server that is there."""
