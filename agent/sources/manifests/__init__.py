"""Objects from files."""
