"""What works without a browser? The command line: `main` reads the arguments, and each verb has a file."""
