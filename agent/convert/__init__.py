"""Lines of a few words for policies: read into NetworkPolicies, and written from them."""
