//! Fixed identifiers for kinds of events.

use aws_lc_rs::digest::{SHA256, digest};

/// The `MESSAGE_ID` of a kind of event: 128 bits in hexadecimal, the same for ever.
///
/// Derived from the kind's name, so that a new kind cannot forget its entry in a table and two kinds
/// cannot share one: the first half of SHA-256 of `io.wardstone.journal.` and the name.
pub fn message_id(kind: &str) -> String {
    let name = format!("io.wardstone.journal.{kind}");
    let hash = digest(&SHA256, name.as_bytes());
    hash.as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Administrators have these in their filters and alerts.
    #[test]
    fn identifiers_never_change() {
        assert_eq!(message_id("server.ready"), "c6826e3e61e7f320dd6d1f03c2887f31");
        assert_eq!(message_id("task.ended"), "f53bed0aa654a6ee80055f329148e3fe");
    }
}
