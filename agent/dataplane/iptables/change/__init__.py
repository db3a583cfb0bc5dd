"""How one state is moved to the next: what is done, in which order."""
