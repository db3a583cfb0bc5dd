"""A plugin of NRI (containerd, CRI-O): the node's container runtime waits until a new pod is isolated."""
