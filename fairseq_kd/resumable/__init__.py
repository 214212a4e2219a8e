"""Long work that can be killed at any moment, continued with the same command, and shared out between processes."""
