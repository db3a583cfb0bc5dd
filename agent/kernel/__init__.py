"""The kernel's interfaces: netlink, ipset, connection tracking, links; nothing here knows a policy."""
