"""The DUSt3R network: finding and loading weights, encoding frames, cross-attention statistics, decoding pairs."""
