"""From a question to a mask, in cached stages."""
