"""Training: the loop, its steps, and what it needs around them."""
