"""From a list of concepts to a dataset in AxBench's format, with a teacher that writes it."""
