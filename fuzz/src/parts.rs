//! Cuts one input into several values, so that a mutation of one moves none of the others' meaning.

/// The values, cut at zero bytes; those that are missing are empty. No format that is cut this way can hold one.
pub(crate) fn parts<const N: usize>(input: &[u8]) -> [&[u8]; N] {
    let mut rest = input.splitn(N, |byte| *byte == 0);
    std::array::from_fn(|_| rest.next().unwrap_or_default())
}

/// An input of these values.
pub(crate) fn joined(values: &[&[u8]]) -> Vec<u8> {
    values.join(&0)
}
