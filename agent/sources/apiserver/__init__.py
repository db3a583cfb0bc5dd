"""Objects from a Kubernetes API server: lists, watches, and what proves them."""
