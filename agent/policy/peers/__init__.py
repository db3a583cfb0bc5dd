"""Whom selectors match: labels, selectors in use, pods that nothing in use tells apart."""
