"""Events of a run in; words, pages and bars out."""
