"""Steer a frozen language model with words."""
