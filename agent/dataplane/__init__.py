"""Programming the kernel: one backend per folder, all behind one protocol."""
