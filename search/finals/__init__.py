"""From a front to networks: which to finalise, their full fine-tune, the test split, files and exports."""
