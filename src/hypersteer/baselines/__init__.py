"""Every method that steers without a hypernetwork, one file each, and the interface of all."""
