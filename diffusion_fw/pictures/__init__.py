"""Everything that the program shows a person, as PNG files."""
