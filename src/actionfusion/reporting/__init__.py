"""Figures become pictures: curves, film strips, and the page that holds them."""
