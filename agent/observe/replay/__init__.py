"""A change of policies, held against the connections that nodes have really seen."""
