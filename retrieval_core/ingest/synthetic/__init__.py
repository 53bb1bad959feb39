"""Draw pictures of apparel: the products, their cut and cloth, the backdrops, and the finished scene."""
