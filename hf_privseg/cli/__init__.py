"""The command line `privseg`: one file for each group of commands."""
