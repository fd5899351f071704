//! Protocol codecs: bytes in, messages out.
