"""Parts for ssdkd, as a package of anybody's: images whose pixels are optimised, and what a student forgets."""
