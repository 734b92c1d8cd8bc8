"""What works without a browser? The command line: `main` lists the verbs, and each verb has a file of its name."""
