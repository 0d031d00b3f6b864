"""What every process has one of: small modules of one noun each."""
