"""The specification read out plainly: what a packet's verdict is, object by object."""
