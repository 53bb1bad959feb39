"""Fields: what a shopper reads of an item (title, price, link), their values by kind."""
