"""The verbs of the flow, one per file: a question and its earlier rows in, records out."""
