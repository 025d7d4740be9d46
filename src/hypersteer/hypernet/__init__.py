"""Hypernetworks: a steering prompt, and what context the variant reads, to a steering vector."""
