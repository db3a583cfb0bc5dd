"""The sets of the iptables backend."""
