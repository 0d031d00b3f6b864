"""Games: hidden information and small worlds, told in text."""
