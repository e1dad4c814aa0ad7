"""Evaluation: a solver over a file of questions, what it is compared with, and the report of both."""
