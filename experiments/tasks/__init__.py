"""Tasks: problems with exact checkers, in the formats that each family can use."""
