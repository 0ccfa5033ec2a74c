"""How fast lvm is, and how right: see README.md for what to run. asv reads the files here; peers/ compares."""
