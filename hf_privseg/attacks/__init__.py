"""What an attacker recovers from ciphertexts, from the encrypted model and from what else leaks: one attack a file."""
