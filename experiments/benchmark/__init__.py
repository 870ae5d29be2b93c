"""Speed: of the parts of aejax against each other, and of aejax against its peers. See `__main__`."""
