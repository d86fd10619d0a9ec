"""What a program is, how it changes, and how it is checked and compared."""
