"""Publishing: tables, figures, comparisons with papers, models as directories."""
