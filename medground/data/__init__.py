"""Data in and out: pictures, masks, and the tables that hold them."""
