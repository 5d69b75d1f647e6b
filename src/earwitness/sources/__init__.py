"""Data sets become questions: one file per source, each a plain function that yields `Question` records."""
