"""From what holds to the sets and rules in which a backend can hold it."""
