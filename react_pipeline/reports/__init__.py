"""Reports: tables, figures and pages of results that are there already."""
