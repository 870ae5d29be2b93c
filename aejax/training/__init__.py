"""Training: the loop, its steps, and the modules around them."""
