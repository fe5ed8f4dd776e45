//! Names and identities that the server makes up.
//!
//! Follows `k8s.io/apiserver/pkg/storage/names` and `k8s.io/apimachinery/pkg/util/rand`: no vowels, so no words.

use rand::Rng;

use crate::key::Uid;

const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
/// Longest base of a generated name: 63 less the suffix.
const MAX_BASE: usize = 58;

/// `generateName` plus five random characters; a base that is too long is cut.
pub fn name(base: &str) -> String {
    let mut end = base.len().min(MAX_BASE);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{}", &base[..end], suffix(5))
}

/// Random characters that are safe in any name.
pub fn suffix(length: usize) -> String {
    let mut random = rand::rng();
    (0..length)
        .map(|_| ALPHABET[random.random_range(0..ALPHABET.len())] as char)
        .collect()
}

/// A new `metadata.uid`: a random UUID.
pub fn uid() -> Uid {
    Uid::from(uuid::Uuid::new_v4().to_string())
}

/// Makes a hash's digits unlikely to spell words, as the pod-template-hash label is written.
pub fn safe_encode(text: &str) -> String {
    text.bytes()
        .map(|byte| ALPHABET[usize::from(byte) % ALPHABET.len()] as char)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_hold_no_vowels() {
        assert!(name("web-").starts_with("web-") && name("web-").len() == 9);
        assert_eq!(name(&"x".repeat(80)).len(), 63);
        assert_eq!(name(&"é".repeat(40)).chars().count(), 29 + 5);
        assert!(!suffix(200).contains(['a', 'e', 'i', 'o', 'u', '0', '1', '3']));
        assert_eq!(uid().len(), 36);
        assert_eq!(safe_encode("0123456789"), "456789bcdf");
    }
}
