"""Learn conditions and behaviour vectors from contrastive texts, and measure conditions."""
