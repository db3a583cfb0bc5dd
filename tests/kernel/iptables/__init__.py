"""What is about the backend of iptables and ipset alone."""
