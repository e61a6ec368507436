"""What a lab is made of, as frozen values with every address decided."""
