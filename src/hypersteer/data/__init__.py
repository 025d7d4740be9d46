"""Examples to learn from: row store, concept data sources and splits."""
