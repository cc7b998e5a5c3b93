"""Objects and truth become numbers and pictures."""
