"""Programs as users have them. Nothing of Trieline is imported by them, and nothing imports them."""
