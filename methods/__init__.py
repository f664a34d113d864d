"""The built-in methods, one file each, registered through the entry points ``fedbench.methods``."""
