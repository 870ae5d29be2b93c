"""How good a run is, in figures and in pictures."""
