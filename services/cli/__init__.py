"""The `tutelage` command."""
