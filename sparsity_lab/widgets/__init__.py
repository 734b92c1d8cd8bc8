"""The room of widgets."""
