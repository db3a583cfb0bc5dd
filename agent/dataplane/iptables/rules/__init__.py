"""From a program to the text of rules."""
