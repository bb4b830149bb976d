"""Private files for browsers: a view that streams them, with ranges, and asks who may see them."""
