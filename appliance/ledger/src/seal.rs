//! Every value is sealed: AES-256-GCM under a data key, bound to its place. A flipped bit, a
//! truncated value or a value moved to another key fails to open; it is never served.
//!
//! A sealed value is `key number (2 bytes) ‖ nonce (12, random) ‖ ciphertext ‖ tag (16)`; its place
//! (space and key) is authenticated too. Data keys are themselves kept in the store, sealed under
//! the master key, which lives outside the data folder.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use appliance_engine::Space;
use appliance_model::Dice;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::digest;
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};

/// Bytes that sealing adds to a value.
pub const SEAL_BYTES: usize = KEY_NUMBER_BYTES + NONCE_BYTES + 16;
const KEY_NUMBER_BYTES: usize = 2;
const NONCE_BYTES: usize = 12;

/// A 256-bit key. Prints as nothing.
#[derive(Clone)]
pub struct SecretKey(pub(crate) [u8; 32]);

impl SecretKey {
    /// How long a key is.
    pub const BYTES: usize = 32;

    /// A fresh key.
    pub fn random(dice: &dyn Dice) -> Self {
        let mut bytes = [0; 32];
        dice.fill(&mut bytes);
        Self(bytes)
    }

    /// A key from exactly 32 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The bytes, to be wrapped or written to the key file; nowhere else.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    fn cipher(&self) -> LessSafeKey {
        let key = UnboundKey::new(&AES_256_GCM, &self.0).expect("the key has 32 bytes");
        LessSafeKey::new(key)
    }
}

impl std::fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretKey(***)")
    }
}

/// The value did not open: it is damaged, moved, or sealed under a key this server lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a sealed value does not open: it is damaged or was sealed under another key")]
pub struct Unsealable;

/// Seals and opens values.
pub struct Vault {
    dice: Arc<dyn Dice>,
    keys: RwLock<Keys>,
}

struct Keys {
    newest: u16,
    ciphers: BTreeMap<u16, LessSafeKey>,
    digest_secret: [u8; 32],
}

impl Vault {
    /// A vault that seals under the data key with the largest number.
    pub fn new(dice: Arc<dyn Dice>, data_keys: &BTreeMap<u16, SecretKey>) -> Self {
        let newest = data_keys.keys().next_back().copied().unwrap_or_default();
        let ciphers = data_keys.iter().map(|(number, key)| (*number, key.cipher())).collect();
        // Index digests must not change when a data key is added, so they hang on the first key.
        let first = data_keys.values().next().map_or([0; 32], |key| key.0);
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(b"wardstone index digest");
        context.update(&first);
        let mut digest_secret = [0; 32];
        digest_secret.copy_from_slice(context.finish().as_ref());
        Self { dice, keys: RwLock::new(Keys { newest, ciphers, digest_secret }) }
    }

    /// Seals `value` for the place `(space, key)`.
    pub fn seal(&self, space: Space, key: &[u8], value: &[u8]) -> Vec<u8> {
        let keys = self.keys.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut nonce = [0; NONCE_BYTES];
        self.dice.fill(&mut nonce);
        let mut sealed = Vec::with_capacity(value.len() + SEAL_BYTES);
        sealed.extend_from_slice(&keys.newest.to_be_bytes());
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(value);
        let head = KEY_NUMBER_BYTES + NONCE_BYTES;
        let cipher = keys.ciphers.get(&keys.newest).expect("the newest key is in the vault");
        let tag = cipher
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(place(space, key)),
                &mut sealed[head..],
            )
            .expect("a value is far below AES-GCM's limit");
        sealed.extend_from_slice(tag.as_ref());
        sealed
    }

    /// Opens what [`Vault::seal`] made for the same place.
    ///
    /// # Errors
    ///
    /// [`Unsealable`], always, if a single bit differs.
    pub fn open(&self, space: Space, key: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Unsealable> {
        let (number, rest) = sealed.split_at_checked(KEY_NUMBER_BYTES).ok_or(Unsealable)?;
        let (nonce, body) = rest.split_at_checked(NONCE_BYTES).ok_or(Unsealable)?;
        let number = u16::from_be_bytes([number[0], number[1]]);
        let keys = self.keys.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let cipher = keys.ciphers.get(&number).ok_or(Unsealable)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Unsealable)?;
        let mut body = body.to_vec();
        let opened = cipher
            .open_in_place(nonce, Aad::from(place(space, key)), &mut body)
            .map_err(|_| Unsealable)?
            .len();
        body.truncate(opened);
        Ok(body)
    }

    /// A key of its own for `purpose`. Nobody without the first data key can make it; it stays the
    /// same when data keys are added.
    pub(crate) fn key_for(&self, purpose: &str) -> SecretKey {
        let keys = self.keys.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let secret = Salt::new(HKDF_SHA256, b"wardstone key for").extract(&keys.digest_secret);
        let mut key = [0; SecretKey::BYTES];
        secret
            .expand(&[purpose.as_bytes()], HKDF_SHA256)
            .and_then(|okm| okm.fill(&mut key))
            .expect("a key is as long as one output of the hash");
        SecretKey(key)
    }

    /// Chance.
    pub(crate) fn dice(&self) -> Arc<dyn Dice> {
        self.dice.clone()
    }

    /// A 128-bit keyed digest: short names for long ones in keys. Nobody without the data key can
    /// make two names collide.
    pub fn digest(&self, parts: &[&[u8]]) -> [u8; 16] {
        let keys = self.keys.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&keys.digest_secret);
        for part in parts {
            // Lengths keep ("ab", "c") and ("a", "bc") apart.
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut short = [0; 16];
        short.copy_from_slice(&context.finish().as_ref()[..16]);
        short
    }
}

/// The authenticated place of a value.
fn place(space: Space, key: &[u8]) -> Vec<u8> {
    let mut place = Vec::with_capacity(key.len() + 1);
    place.push(space.0);
    place.extend_from_slice(key);
    place
}

#[cfg(test)]
mod tests {
    use appliance_model::OsDice;

    use super::*;

    fn vault() -> Vault {
        let key = SecretKey::random(&OsDice);
        Vault::new(Arc::new(OsDice), &BTreeMap::from([(1, key)]))
    }

    #[test]
    fn any_flipped_bit_and_any_other_place_is_refused() {
        let vault = vault();
        let sealed = vault.seal(Space(1), b"key", b"bed 4 is free");
        assert_eq!(vault.open(Space(1), b"key", &sealed).unwrap(), b"bed 4 is free");
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(vault.open(Space(1), b"key", &flipped), Err(Unsealable), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert_eq!(vault.open(Space(1), b"key", &sealed[..length]), Err(Unsealable));
        }
        assert_eq!(vault.open(Space(2), b"key", &sealed), Err(Unsealable));
        assert_eq!(vault.open(Space(1), b"kex", &sealed), Err(Unsealable));
    }

    #[test]
    fn digests_keep_parts_apart() {
        let vault = vault();
        assert_ne!(vault.digest(&[b"ab", b"c"]), vault.digest(&[b"a", b"bc"]));
        assert_eq!(vault.digest(&[b"ab", b"c"]), vault.digest(&[b"ab", b"c"]));
    }
}
