"""The methods of conform-encode: arrays in, arrays out."""
