"""What the command line prints on standard output: tables for people, JSON for machines."""
