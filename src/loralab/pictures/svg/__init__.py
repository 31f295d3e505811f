"""Drawings as SVG for a page that brings its own colours: what is drawn has classes, and no colour of its own."""
