//! Time and chance come in by the door, so that a seed replays a night shift.

use ruma::{MilliSecondsSinceUnixEpoch, UInt};

/// The time of day.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since the Unix epoch. May step back: compare positions, not times.
    fn now(&self) -> MilliSecondsSinceUnixEpoch;

    /// The same, as a plain number.
    fn now_ms(&self) -> u64 {
        self.now().0.into()
    }
}

/// Unpredictable bytes.
pub trait Dice: Send + Sync + 'static {
    /// Fills `bytes` with randomness fit for keys and tokens.
    fn fill(&self, bytes: &mut [u8]);

    /// A random number.
    fn number(&self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_be_bytes(bytes)
    }

    /// `length` random letters and digits (5.95 bits each).
    fn letters(&self, length: usize) -> String {
        const LETTERS: &[u8; 62] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
        let mut text = String::with_capacity(length);
        let mut bytes = [0; 64];
        while text.len() < length {
            self.fill(&mut bytes);
            // 248 is the largest multiple of 62 in a byte: above it some letters would be likelier.
            let fair = bytes.iter().filter(|byte| **byte < 248);
            text.extend(
                fair.map(|byte| char::from(LETTERS[usize::from(byte % 62)]))
                    .take(length - text.len()),
            );
        }
        text
    }
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the door by which time comes in")]
    fn now(&self) -> MilliSecondsSinceUnixEpoch {
        let since =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        MilliSecondsSinceUnixEpoch(UInt::new_saturating(ms))
    }
}

/// The randomness of the TLS provider: a generator in this process, seeded by the operating system.
/// Every sealed row needs some; a call into the kernel for each was a tenth of a message's cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsDice;

impl Dice for OsDice {
    #[expect(clippy::disallowed_methods, reason = "this is the door by which randomness comes in")]
    fn fill(&self, bytes: &mut [u8]) {
        // Without randomness there are no keys and no tokens: going on would be unsafe.
        aws_lc_rs::rand::fill(bytes).expect("the operating system gives randomness");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_have_the_length_asked_for_and_differ() {
        let (one, two) = (OsDice.letters(43), OsDice.letters(43));
        assert_eq!(one.len(), 43);
        assert_ne!(one, two);
        assert!(one.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    }
}
