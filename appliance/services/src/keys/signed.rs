//! Keys as signed JSON: taken apart for the store, put together for those who ask.

use appliance_ledger::rows::keys::SignatureRow;
use appliance_model::ruma::{CanonicalJsonObject, CanonicalJsonValue};
use appliance_model::{Error, Kind};
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// "Unpadded base64"; padding is let pass, as other servers do.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A signed object, taken apart.
#[derive(Clone, Debug)]
pub(super) struct Signed {
    /// "Remove any `unsigned` object … and `signatures` … encode … as Canonical JSON" ([signing]):
    /// what is signed.
    ///
    /// [signing]: https://spec.matrix.org/v1.19/appendices/#signing-details
    pub json: String,
    /// Its signatures, sorted.
    pub signatures: Vec<SignatureRow>,
}

impl Signed {
    /// Takes a signed object apart.
    ///
    /// # Errors
    ///
    /// [`Kind::TooLarge`] beyond `bytes_max`; [`Kind::BadJson`] if it is no canonical JSON object or
    /// its signatures are none.
    pub fn parse(json: &str, bytes_max: usize) -> Result<Self, Error> {
        if json.len() > bytes_max {
            return Err(Error::too_large(format!("A key is larger than {bytes_max} bytes.")));
        }
        let mut object: CanonicalJsonObject = canonical(json)?;
        object.remove("unsigned");
        let signatures = match object.remove("signatures") {
            None => Vec::new(),
            Some(CanonicalJsonValue::Object(by_signer)) => signatures(by_signer)?,
            Some(_) => return Err(Error::bad_json("`signatures` must be an object.")),
        };
        if object.is_empty() {
            return Err(Error::bad_json("A key must not be empty."));
        }
        let json = CanonicalJsonValue::Object(object).to_string();
        Ok(Self { json, signatures })
    }

    /// The signature by one key of one user.
    pub fn signature(&self, signer: &str, key_id: &str) -> Option<&SignatureRow> {
        self.signatures.iter().find(|row| row.signer == signer && row.key_id == key_id)
    }
}

/// Canonical JSON from what a client sent: no floats, no numbers beyond 2^53.
pub(super) fn canonical<T: serde::de::DeserializeOwned>(json: &str) -> Result<T, Error> {
    serde_json::from_str(json)
        .map_err(|error| Error::bad_json(format!("A key does not have the form it needs: {error}")))
}

fn signatures(by_signer: CanonicalJsonObject) -> Result<Vec<SignatureRow>, Error> {
    let bad = || Error::bad_json("`signatures` must map users to keys to signatures.");
    let mut rows = Vec::new();
    for (signer, by_key) in by_signer {
        let CanonicalJsonValue::Object(by_key) = by_key else { return Err(bad()) };
        for (key_id, signature) in by_key {
            let CanonicalJsonValue::String(signature) = signature else { return Err(bad()) };
            rows.push(SignatureRow { signer: signer.clone(), key_id, signature });
        }
    }
    Ok(rows)
}

/// Adds signatures to those there are; one by the same key replaces it. Says whether any is new.
pub(super) fn merge_signatures(into: &mut Vec<SignatureRow>, new: &[SignatureRow]) -> bool {
    let before = into.clone();
    for row in new {
        into.retain(|old| (&old.signer, &old.key_id) != (&row.signer, &row.key_id));
        into.push(row.clone());
    }
    into.sort_unstable();
    *into != before
}

/// Whether `signature` is that of `json` by the Ed25519 key `public_key`; both in base64.
pub(super) fn is_signed(json: &str, public_key: &str, signature: &str) -> bool {
    let (Ok(public_key), Ok(signature)) = (BASE64.decode(public_key), BASE64.decode(signature))
    else {
        return false;
    };
    UnparsedPublicKey::new(&ED25519, public_key).verify(json.as_bytes(), &signature).is_ok()
}

/// Whether this can be an Ed25519 public key.
pub(super) fn is_public_key(base64: &str) -> bool {
    const ED25519_BYTES: usize = 32;
    BASE64.decode(base64).is_ok_and(|bytes| bytes.len() == ED25519_BYTES)
}

/// Puts a signed object together. `signatures` must be sorted by signer; `unsigned` is JSON.
pub(super) fn assemble<'a>(
    json: &str,
    signatures: impl Iterator<Item = &'a SignatureRow>,
    unsigned: Option<&str>,
) -> Result<super::RawJson, Error> {
    let mut out = String::with_capacity(json.len() + 512);
    out.push_str(json.strip_suffix('}').ok_or_else(|| Error::internal("a key is no object"))?);
    out.push_str(",\"signatures\":{");
    let mut signer: Option<&str> = None;
    for row in signatures {
        match signer {
            Some(same) if same == row.signer => out.push(','),
            before => {
                out.push_str(if before.is_some() { "}," } else { "" });
                push_text(&mut out, &row.signer)?;
                out.push_str(":{");
            }
        }
        signer = Some(&row.signer);
        push_text(&mut out, &row.key_id)?;
        out.push(':');
        push_text(&mut out, &row.signature)?;
    }
    out.push_str(if signer.is_some() { "}}" } else { "}" });
    if let Some(unsigned) = unsigned {
        out.push_str(",\"unsigned\":");
        out.push_str(unsigned);
    }
    out.push('}');
    super::raw(out)
}

/// Appends a JSON string.
pub(super) fn push_text(out: &mut String, text: &str) -> Result<(), Error> {
    out.push_str(&serde_json::to_string(text).map_err(Error::internal)?);
    Ok(())
}

/// What a client hears whose key is not signed as it must be.
pub(super) fn not_signed(what: &'static str) -> Error {
    Error::new(Kind::InvalidSignature, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signature(signer: &str, key_id: &str, signature: &str) -> SignatureRow {
        let [signer, key_id, signature] = [signer, key_id, signature].map(str::to_owned);
        SignatureRow { signer, key_id, signature }
    }

    #[test]
    fn an_object_taken_apart_comes_together_again() {
        let json = r#"{ "b": "ä", "a": [1, true], "unsigned": {"x": 1}, "signatures":
            {"@b:h": {"ed25519:2": "s3"}, "@a:h": {"ed25519:1": "s1", "ed25519:0": "s0"}} }"#;
        let signed = Signed::parse(json, 1_000).unwrap();
        assert_eq!(signed.json, r#"{"a":[1,true],"b":"ä"}"#);
        let together = assemble(&signed.json, signed.signatures.iter(), Some("{}")).unwrap();
        let expected = concat!(
            r#"{"a":[1,true],"b":"ä","signatures":{"@a:h":{"ed25519:0":"s0","ed25519:1":"s1"},"#,
            r#""@b:h":{"ed25519:2":"s3"}},"unsigned":{}}"#
        );
        assert_eq!(together.get(), expected);
        let bare = assemble(&signed.json, [].iter(), None).unwrap();
        assert_eq!(bare.get(), r#"{"a":[1,true],"b":"ä","signatures":{}}"#);
    }

    #[test]
    fn what_is_no_signed_object_is_refused() {
        for bad in [
            "[]",
            "{}",
            "1",
            r#"{"a":1.5}"#,
            r#"{"a":1e400}"#,
            r#"{"a":1,"signatures":[]}"#,
            r#"{"a":1,"signatures":{"@a:h":"s"}}"#,
            r#"{"a":1,"signatures":{"@a:h":{"ed25519:1":7}}}"#,
            r#"{"signatures":{}}"#,
        ] {
            assert_eq!(Signed::parse(bad, 1_000).unwrap_err().kind, Kind::BadJson, "{bad}");
        }
        assert_eq!(Signed::parse(r#"{"a":1}"#, 6).unwrap_err().kind, Kind::TooLarge);
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(500), "]".repeat(500));
        assert_eq!(Signed::parse(&deep, 10_000).unwrap_err().kind, Kind::BadJson);
    }

    #[test]
    fn a_newer_signature_by_the_same_key_replaces_the_older() {
        let mut rows = vec![signature("@a:h", "ed25519:1", "old"), signature("@b:h", "k:1", "s")];
        assert!(!merge_signatures(&mut rows, &[signature("@b:h", "k:1", "s")]));
        assert!(merge_signatures(&mut rows, &[signature("@a:h", "ed25519:1", "new")]));
        assert_eq!(rows, [signature("@a:h", "ed25519:1", "new"), signature("@b:h", "k:1", "s")]);
    }

    /// Test vector of the specification's appendix "Signing JSON".
    #[test]
    fn a_known_signature_holds_and_a_changed_one_does_not() {
        let key = "XGX0JRS2Af3be3knz2fBiRbApjm2Dh61gXDJA8kcJNI";
        let good = "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ";
        assert!(is_public_key(key));
        assert!(is_signed("{}", key, good));
        assert!(!is_signed("{ }", key, good));
        assert!(!is_signed("{}", key, &good.replace('K', "L")));
        assert!(!is_signed("{}", "nonsense!", good));
        assert!(!is_public_key("abc"));
    }
}
