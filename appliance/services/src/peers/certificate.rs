//! What certificate a peer must show when it connects here, where its record wants one. "A homeserver may
//! provide a TLS client certificate and the receiving homeserver may check that the client certificate matches
//! the certificate of the origin homeserver" ([spec]).
//!
//! Who it is that connects is known only from the request: the listener asks for a certificate and takes any,
//! or none; it has been proved then that whoever connected has its key. Here it is held against the record,
//! before anything of the body is read.
//!
//! [spec]: https://spec.matrix.org/v1.19/server-server-api/#client-tls-certificates

use std::fmt;
use std::sync::Arc;

use appliance_model::ruma::ServerName;
use appliance_model::{Error, Kind};

use super::{Peers, spell_pin};

/// A certificate whose key whoever connected has proved to have.
pub trait ShownCertificate: fmt::Debug + Send + Sync {
    /// SHA-256 of its public key (`SubjectPublicKeyInfo`).
    fn key_sha256(&self) -> [u8; 32];

    /// Whether it comes from one of these authorities (PEM), may be used by clients, and is good today.
    ///
    /// # Errors
    ///
    /// Why not, for the end of a sentence.
    fn comes_from(&self, authorities: &str) -> Result<(), String>;
}

/// What the listener puts beside a request.
#[derive(Clone, Debug)]
pub struct PeerCertificate(pub Arc<dyn ShownCertificate>);

/// What the certificate of a peer's client must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientPins {
    /// The only authorities that count, in PEM; none: a pinned key is enough, whoever says whose it is.
    pub authorities: Option<String>,
    /// SHA-256 of the only public keys that it may have; empty: any.
    pub keys: Vec<Vec<u8>>,
}

impl Peers {
    /// Holds the certificate that was shown against what the record of `origin` wants.
    ///
    /// # Errors
    ///
    /// [`Kind::Unauthorized`]: it wants one, and none was shown, or another.
    pub fn check_certificate(
        &self,
        origin: &ServerName,
        shown: Option<&PeerCertificate>,
    ) -> Result<(), Error> {
        let Some(pins) = self.house.roll.client_pins(origin) else { return Ok(()) };
        let Err(why) = is_pinned(&pins, shown) else { return Ok(()) };
        if let Some(times) =
            self.alarms.count("peers.certificate", origin.as_str(), self.house.clock.now_ms())
        {
            tracing::warn!(kind = "peers.certificate", server = %origin, why, times,
                "somebody who does not show the certificate that the list of peers wants speaks for a peer");
        }
        let message = "This server believes that name only with the TLS client certificate that it was \
                       told about.";
        Err(Error::new(Kind::Unauthorized, message))
    }
}

fn is_pinned(pins: &ClientPins, shown: Option<&PeerCertificate>) -> Result<(), String> {
    let Some(PeerCertificate(shown)) = shown else {
        return Err("no certificate was shown; or TLS ends at a proxy, which shows none".to_owned());
    };
    let key = shown.key_sha256();
    if !pins.keys.is_empty() && !pins.keys.iter().any(|pinned| *pinned == key) {
        return Err(format!("the key of its certificate is {}, not pinned", spell_pin(&key)));
    }
    match &pins.authorities {
        Some(authorities) => shown.comes_from(authorities),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Card {
        key: u8,
        authority: &'static str,
    }

    impl ShownCertificate for Card {
        fn key_sha256(&self) -> [u8; 32] {
            [self.key; 32]
        }

        fn comes_from(&self, authorities: &str) -> Result<(), String> {
            (authorities == self.authority)
                .then_some(())
                .ok_or_else(|| "of somebody else".to_owned())
        }
    }

    #[test]
    fn both_the_key_and_the_authority_count_where_both_are_said() {
        let pins = |authority: Option<&str>, keys: &[u8]| ClientPins {
            authorities: authority.map(str::to_owned),
            keys: keys.iter().map(|key| vec![*key; 32]).collect(),
        };
        let card = |key, authority| Some(PeerCertificate(Arc::new(Card { key, authority })));
        for (pins, shown, is_good) in [
            (pins(None, &[7, 8]), card(8, "x"), true),
            (pins(None, &[7, 8]), card(9, "x"), false),
            (pins(None, &[7, 8]), None, false),
            (pins(Some("a"), &[]), card(9, "a"), true),
            (pins(Some("a"), &[]), card(9, "b"), false),
            (pins(Some("a"), &[]), None, false),
            (pins(Some("a"), &[7]), card(7, "a"), true),
            (pins(Some("a"), &[7]), card(7, "b"), false),
            (pins(Some("a"), &[7]), card(8, "a"), false),
        ] {
            assert_eq!(is_pinned(&pins, shown.as_ref()).is_ok(), is_good, "{pins:?} {shown:?}");
        }
    }
}
