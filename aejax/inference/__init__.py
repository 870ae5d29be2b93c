"""Use of a trained run: encoding, decoding, generation and export."""
