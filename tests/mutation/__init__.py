"""Small breakages of the compiler and the renderer, each of which the tests must catch."""
