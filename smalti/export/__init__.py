"""What leaves the house: token files and exported programs."""
