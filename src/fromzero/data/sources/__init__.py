"""Where data come from: data sets by name (get), their table (sets) and the ways to fetch them, and archives."""
