//! Addresses in the one form that the maps know.

use bailiff_common::{Address, V4_MAPPED};

/// An IPv4 address in network order, as the kernel's contexts have it.
#[inline(always)]
pub(crate) fn mapped(v4: u32) -> Address {
    let mut address = [0u8; 16];
    address[..12].copy_from_slice(&V4_MAPPED);
    address[12..].copy_from_slice(&v4.to_ne_bytes());
    address
}

/// An IPv6 address as four words in network order, as the kernel's contexts have it.
#[inline(always)]
pub(crate) fn of_words(words: [u32; 4]) -> Address {
    let mut address = [0u8; 16];
    address[0..4].copy_from_slice(&words[0].to_ne_bytes());
    address[4..8].copy_from_slice(&words[1].to_ne_bytes());
    address[8..12].copy_from_slice(&words[2].to_ne_bytes());
    address[12..16].copy_from_slice(&words[3].to_ne_bytes());
    address
}

/// The four words of a field of the kernel's contexts.
///
/// # Safety
/// The place must be a field of a context that is valid.
#[inline(always)]
pub(crate) unsafe fn read_words(field: *const [u32; 4]) -> Address {
    // Volatile, so that each is read by itself: two words read as one give "invalid bpf_context access off=48 size=8".
    // SAFETY: the caller's; each word lies in the field.
    let word = |at| unsafe { core::ptr::read_volatile(field.cast::<u32>().add(at)) };
    of_words([word(0), word(1), word(2), word(3)])
}

/// Four bytes of an address as such a word.
#[inline(always)]
pub(crate) fn word(address: &Address, at: usize) -> u32 {
    u32::from_ne_bytes([address[at], address[at + 1], address[at + 2], address[at + 3]])
}

#[inline(always)]
pub(crate) fn is_mapped(address: &Address) -> bool {
    address[..12] == V4_MAPPED
}

/// Whether it leads to the own namespace; the unspecified address means it, too.
#[inline(always)]
pub(crate) fn is_loopback(address: &Address) -> bool {
    if is_mapped(address) {
        address[12] == 127 || address[12..] == [0; 4]
    } else {
        address[..15] == [0; 15] && address[15] <= 1
    }
}
