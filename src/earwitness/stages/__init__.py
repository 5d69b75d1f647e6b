"""The verbs of the flow, one per file: a question and its earlier rows in, records out.

A data stage is a small frozen class that is called with one block of work and returns, for each question, its records
or `Failed`; it travels to worker processes by pickle. A training stage reads whole pools and leaves a checkpoint.
"""
