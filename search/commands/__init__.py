"""The commands of `paretoprune`, a module each; `search.cli` puts them together."""
