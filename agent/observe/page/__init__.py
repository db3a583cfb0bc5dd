"""The page of the status port, for people with a browser. Nothing of it is loaded before somebody asks."""
