"""The systems that the paper is compared with, one file each, built from the parts beside them."""
