"""Every method behind one protocol: hypernetworks, prompting, and one file per baseline."""
