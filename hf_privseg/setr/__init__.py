"""SETR and its encryption: every file here travels with a checkpoint as remote code, flat and without the rest."""
