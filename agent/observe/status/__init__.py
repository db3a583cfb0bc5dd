"""What ``netpol-agent status`` shows besides the whole: a first screen, one pod, one policy."""
