"""From a pruned network to what is used elsewhere: saved, loaded and exported."""
