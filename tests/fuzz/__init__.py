"""Every decoder of what others write, given bytes that nobody meant: it answers, or refuses as it says."""
