"""Files: atomic writes, kept stages, arrays written row by row, and what is ours in a folder of the user."""
