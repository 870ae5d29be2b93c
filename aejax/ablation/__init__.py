"""Many runs of one config: which, by what they are called, and what they tell side by side."""
