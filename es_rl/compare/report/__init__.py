"""What the runs of a comparison say: numbers, figures, tables and pages."""
