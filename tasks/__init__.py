"""The built-in tasks and suites, registered through the entry points ``fedbench.tasks``."""
