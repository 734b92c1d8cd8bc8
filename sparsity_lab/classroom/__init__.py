"""The room of classroom."""
