"""How results are written for people: tables in Markdown and on the terminal."""
