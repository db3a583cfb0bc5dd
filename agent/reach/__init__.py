"""Who may reach whom, as exact sets of addresses, protocols and ports: nothing is sampled."""
