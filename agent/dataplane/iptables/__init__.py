"""The iptables backend: ipsets for peers, one chain for each policy and isolated pod."""
