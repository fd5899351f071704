//! Texts that no compression makes small.

/// `length` letters and digits that look random and are the same for the same seed.
#[must_use]
pub fn noise(seed: u64, length: usize) -> String {
    const LETTERS: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_.";
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .filter_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            LETTERS.get((state >> 58) as usize).copied().map(char::from)
        })
        .collect()
}
