"""``splatfacto-easi3r``: nerfstudio's Gaussian splatting, trained and measured on what stands still."""
