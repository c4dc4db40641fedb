"""The Playground: what a page has chosen, the numbers behind its views, and the panels that show them."""
