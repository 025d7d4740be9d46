"""All that reads result rows: summary, tables, curves, and the report in HTML and Markdown."""
