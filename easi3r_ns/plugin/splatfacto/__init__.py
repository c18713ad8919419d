"""``splatfacto-easi3r``: nerfstudio's Gaussian splatting, trained and evaluated on the static parts of the images."""
