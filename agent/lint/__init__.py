"""What is wrong with policies before they are applied: rules, findings with their places, and formats."""
