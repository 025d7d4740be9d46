"""Edits: what is done to a hidden state at a site, as plain values that know no model."""
