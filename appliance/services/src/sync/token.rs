//! Where a client stands.
//!
//! `since` and `next_batch` are `s<position>`, with `_<typing>` after it while someone types and
//! `_<typing>_<to-device>` while to-device messages wait for the next answer. Pagination tokens are
//! `t<position>`: events below lie before it. The `pos` of sliding sync is
//! `p<position>_<turn>_<connection>`. All are accepted wherever the timeline is paged.

use appliance_model::{Error, Position};

/// A sync token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Token {
    /// All that was committed up to here is known to the client.
    pub position: Position,
    /// The typing notices the client knows of.
    pub typing: u64,
    /// To-device messages up to here are known to the client.
    pub to_device: Position,
}

impl Token {
    /// Reads a sync token.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::InvalidParam`] if it is none of ours.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let invalid = || Error::invalid_param("`since` is not a token that this server gave out.");
        let mut parts = text.strip_prefix('s').ok_or_else(invalid)?.splitn(3, '_');
        let mut number = || match parts.next() {
            Some(part) => part.parse::<u64>().map(Some).map_err(|_| invalid()),
            None => Ok(None),
        };
        let position = Position(number()?.ok_or_else(invalid)?);
        let typing = number()?.unwrap_or_default();
        let to_device = number()?.map_or(position, Position);
        Ok(Self { position, typing, to_device })
    }

    /// The token as clients keep it.
    pub fn text(&self) -> String {
        let Self { position: Position(position), typing, to_device: Position(to_device) } = self;
        if to_device != position {
            format!("s{position}_{typing}_{to_device}")
        } else if *typing > 0 {
            format!("s{position}_{typing}")
        } else {
            format!("s{position}")
        }
    }
}

/// The `pos` of a sliding sync connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pos {
    /// All that the connection shows was shown up to here.
    pub position: Position,
    /// Which answer of the connection gave it out.
    pub turn: u64,
    /// The connection. No two have the same name, not even before and after a restart.
    pub connection: u64,
}

impl Pos {
    /// None if the text is none of ours.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix('p')?.splitn(3, '_');
        let position = Position(parts.next()?.parse().ok()?);
        let turn = parts.next()?.parse().ok()?;
        let connection = u64::from_str_radix(parts.next()?, 16).ok()?;
        Some(Self { position, turn, connection })
    }

    /// As clients keep it.
    pub fn text(self) -> String {
        let Self { position: Position(position), turn, connection } = self;
        format!("p{position}_{turn}_{connection:x}")
    }
}

/// The place in a timeline that a token of either kind names: events at smaller positions lie
/// before it.
///
/// # Errors
///
/// [`appliance_model::Kind::InvalidParam`] if it is none of ours.
pub fn timeline_place(text: &str) -> Result<i64, Error> {
    if let Some(place) = text.strip_prefix('t') {
        let invalid = |_| Error::invalid_param("This is not a token that this server gave out.");
        return place.parse().map_err(invalid);
    }
    // A client that knows everything up to a position pages back from just after it.
    Ok(known_upto(text)?.0.cast_signed().saturating_add(1))
}

/// Up to where a client knows everything that has a `since`, or a `pos` of sliding sync.
///
/// # Errors
///
/// [`appliance_model::Kind::InvalidParam`] if it is none of ours.
pub fn known_upto(text: &str) -> Result<Position, Error> {
    match Pos::parse(text) {
        Some(pos) => Ok(pos.position),
        None => Ok(Token::parse(text)?.position),
    }
}

/// The pagination token of a place.
pub fn timeline_token(place: i64) -> String {
    format!("t{place}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_and_strange_ones_are_refused() {
        for text in ["s0", "s17", "s17_3", "s17_0_9", "s17_4_9"] {
            assert_eq!(Token::parse(text).unwrap().text(), text);
        }
        for text in ["", "s", "17", "s-1", "s1_", "s1_2_3_4", "t5", "s99999999999999999999999"] {
            assert!(Token::parse(text).is_err(), "{text}");
        }
        assert_eq!(timeline_place("t-4").unwrap(), -4);
        assert_eq!(timeline_place("s9_1").unwrap(), 10);
        let pos = Pos { position: Position(9), turn: 3, connection: u64::MAX };
        assert_eq!(Pos::parse(&pos.text()), Some(pos));
        assert_eq!(timeline_place(&pos.text()).unwrap(), 10);
        assert_eq!(known_upto(&pos.text()).unwrap(), Position(9));
        for text in ["p", "p9", "p9_1", "p9_1_", "p9_1_g", "p_1_1", "p9_1_1_1"] {
            assert!(timeline_place(text).is_err(), "{text}");
        }
    }
}
