//! What goes from administrator to administrator: a line of letters and digits, signed.

use std::collections::BTreeMap;

use appliance_ledger::rows::peers::PeerRow;
use appliance_model::Error;
use appliance_model::ruma::signatures::{Ed25519KeyPair, KeyPair};
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::super::PeerChange;

/// What is signed begins with this, so that no signature on anything else fits here.
const SIGNED_AS: &[u8] = b"wardstone peering 1\0";

/// How letters begin: whoever finds one knows what it is.
const OFFER: &str = "wardstone-offer-";
const ANSWER: &str = "wardstone-answer-";

/// A letter has some 400 characters; with texts of full length, some thousands.
const TEXT_BYTES_MAX: usize = 16 * 1024;

/// What an organisation says of itself, and of the contract. Texts are lines of at most 500 bytes, dates
/// are `2026-12-31`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Decode, Deserialize, Encode, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Terms {
    /// Its name as an organisation.
    #[n(0)]
    pub legal_name: Option<String>,
    /// Whom to call there.
    #[n(1)]
    pub contact: Option<String>,
    /// Whose law holds there.
    #[n(2)]
    pub jurisdiction: Option<String>,
    /// Registers and its numbers in them.
    #[n(3)]
    pub identifiers: Option<BTreeMap<String, String>>,
    /// Under which contract this is done.
    #[n(4)]
    pub contract: Option<String>,
    /// The first day.
    #[n(5)]
    pub valid_from: Option<String>,
    /// The last day.
    #[n(6)]
    pub valid_until: Option<String>,
}

impl Terms {
    /// The contract is the offer's.
    pub(super) fn take_contract(&mut self, offer: Self) {
        self.contract = offer.contract;
        self.valid_from = offer.valid_from;
        self.valid_until = offer.valid_until;
    }

    /// A record with these terms.
    pub(super) fn apply(self, row: PeerRow) -> Result<PeerRow, Error> {
        let change = PeerChange {
            legal_name: self.legal_name,
            contact: self.contact,
            jurisdiction: self.jurisdiction,
            identifiers: self.identifiers,
            contract: self.contract,
            valid_from: self.valid_from,
            valid_until: self.valid_until,
            ..PeerChange::default()
        };
        change.apply(row)
    }
}

/// An offer, or the answer to one.
#[derive(Clone, Debug, PartialEq, Eq, Decode, Encode)]
pub(super) struct Letter {
    #[n(0)]
    pub from: String,
    #[n(1)]
    pub to: String,
    #[n(2)]
    pub key_id: String,
    #[cbor(n(3), with = "minicbor::bytes")]
    pub public: Vec<u8>,
    #[n(4)]
    pub terms: Terms,
    /// What the writer drew: no two letters are alike.
    #[cbor(n(5), with = "minicbor::bytes")]
    pub lot: Vec<u8>,
    /// Until when it is good, in milliseconds since the Unix epoch.
    #[n(6)]
    pub until_ms: u64,
    /// SHA-256 of the offer that this answers.
    #[cbor(n(7), with = "minicbor::bytes")]
    pub answers: Option<Vec<u8>>,
}

#[derive(Decode, Encode)]
struct Signed {
    #[cbor(n(0), with = "minicbor::bytes")]
    letter: Vec<u8>,
    #[cbor(n(1), with = "minicbor::bytes")]
    signature: Vec<u8>,
}

/// The text to send, and the bytes that are signed.
pub(super) fn write(letter: &Letter, key: &Ed25519KeyPair) -> Result<(String, Vec<u8>), Error> {
    let bytes = minicbor::to_vec(letter).map_err(Error::internal)?;
    let signature = key.sign(&[SIGNED_AS, &bytes].concat()).as_bytes().to_vec();
    let signed = Signed { letter: bytes.clone(), signature };
    let signed = minicbor::to_vec(&signed).map_err(Error::internal)?;
    let begin = if letter.answers.is_none() { OFFER } else { ANSWER };
    Ok((format!("{begin}{}", URL_SAFE_NO_PAD.encode(signed)), bytes))
}

/// Reads what somebody sent, whatever mail programs did to its lines, and verifies that it is as it was
/// written.
pub(super) fn read(text: &str) -> Result<(Letter, Vec<u8>), Error> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(broken());
    }
    let text: String = text.chars().filter(|letter| !letter.is_whitespace()).collect();
    let (is_offer, rest) = match (text.strip_prefix(OFFER), text.strip_prefix(ANSWER)) {
        (Some(rest), _) => (true, rest),
        (_, Some(rest)) => (false, rest),
        _ => return Err(broken()),
    };
    let signed = URL_SAFE_NO_PAD.decode(rest).map_err(|_| broken())?;
    let Signed { letter: bytes, signature } = minicbor::decode(&signed).map_err(|_| broken())?;
    let letter: Letter = minicbor::decode(&bytes).map_err(|_| broken())?;
    UnparsedPublicKey::new(&ED25519, &letter.public)
        .verify(&[SIGNED_AS, &bytes].concat(), &signature)
        .map_err(|_| altered())?;
    if letter.answers.is_none() != is_offer {
        return Err(altered());
    }
    Ok((letter, bytes))
}

/// It cannot be read.
pub(super) fn broken() -> Error {
    Error::invalid_param(
        "This is not a whole offer or answer. Copy it again, from \"wardstone-\" to the last letter.",
    )
}

fn altered() -> Error {
    Error::invalid_param(
        "This is not as it was written: it was altered on its way, or not copied whole. Have it sent \
         again, on another way.",
    )
}
