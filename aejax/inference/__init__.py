"""A trained run in use: encoding, decoding, generating, and exporting."""
