"""The report of a comparison: numbers, figures, tables and pages."""
