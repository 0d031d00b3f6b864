"""A page that shows trajectory trees: one HTML file with everything in it, or served while a run goes on."""
