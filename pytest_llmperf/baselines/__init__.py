"""What a measurement is compared with, and the environment that makes it comparable."""
