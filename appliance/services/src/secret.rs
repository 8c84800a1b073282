//! Secrets of the house: never in a log line, compared in constant time.

use std::fmt;

/// A secret text.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps it.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// Whether `guess` is the secret. Takes the same time wherever they differ; only the length
    /// shows.
    pub fn matches(&self, guess: &str) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(self.0.as_bytes(), guess.as_bytes())
            .is_ok()
    }

    /// Its bytes, to sign with.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_matches_itself_and_does_not_print_itself() {
        let secret = Secret::new("open sesame");
        assert!(secret.matches("open sesame"));
        assert!(!secret.matches("open sesam"));
        assert!(!secret.matches(""));
        assert!(!format!("{secret:?}").contains("sesame"));
    }
}
