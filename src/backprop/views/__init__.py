"""What people and programs look at: records in, text out."""
