"""What runs take of the machine: what is measured, the file that keeps it, and what it adds up to."""
