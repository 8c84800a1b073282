//! How a file is sealed: in chunks, each authentic for its place, so that a part can be read without
//! the whole and nothing can be cut off, swapped or moved.
//!
//! A sealed file is
//!
//! ```text
//! "WSB1" (4) ‖ half (32, random) ‖ chunk 0 ‖ chunk 1 ‖ … ‖ last chunk
//! chunk = ciphertext (65,536; the last one 0 to 65,536) ‖ tag (16)
//! nonce = 0 (7) ‖ chunk number (4, big-endian) ‖ 1 for the last chunk, else 0 (1)
//! key   = HKDF-SHA256(salt = half, secret = the blob's data key, info = "wardstone blob 1", label)
//! ```
//!
//! This is the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár 2015) over AES-256-GCM. A key
//! seals one file once, so counting nonces never repeat. The key takes two halves: the data key, kept
//! wrapped in the engine, and the salt at the head of the file. Overwriting the salt makes the file
//! noise even for someone who finds the data key in an old page of the engine.

use appliance_model::Dice;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};

use crate::seal::{SecretKey, Unsealable};

/// Bytes of a file sealed at once. Bounds what a reader holds in memory, and what a range read opens
/// in excess.
pub(crate) const CHUNK_BYTES: usize = 64 * 1024;
/// Bytes that sealing adds to a chunk.
const TAG_BYTES: usize = 16;
/// A whole chunk, sealed.
pub(crate) const SEALED_CHUNK_BYTES: usize = CHUNK_BYTES + TAG_BYTES;
const MAGIC: &[u8; 4] = b"WSB1";
const HALF_BYTES: usize = 32;
/// What stands before the first chunk.
pub(crate) const HEAD_BYTES: usize = MAGIC.len() + HALF_BYTES;

/// The start of a sealed file.
pub(crate) type Head = [u8; HEAD_BYTES];

/// A head with a fresh half of a key.
pub(crate) fn fresh_head(dice: &dyn Dice) -> Head {
    let mut head = [0; HEAD_BYTES];
    head[..MAGIC.len()].copy_from_slice(MAGIC);
    dice.fill(&mut head[MAGIC.len()..]);
    head
}

/// How many chunks a file of `bytes` bytes has: at least one, so that an empty file is sealed too.
pub(crate) fn chunks_of(bytes: u64) -> u64 {
    bytes.div_ceil(CHUNK_BYTES as u64).max(1)
}

/// How long the sealed form of a file of `bytes` bytes is.
pub(crate) fn sealed_bytes(bytes: u64) -> u64 {
    HEAD_BYTES as u64 + bytes + chunks_of(bytes) * TAG_BYTES as u64
}

/// Where chunk `index` starts in the sealed file.
pub(crate) fn chunk_start(index: u64) -> u64 {
    HEAD_BYTES as u64 + index * SEALED_CHUNK_BYTES as u64
}

/// How long chunk `index` of a file of `bytes` bytes is, sealed.
pub(crate) fn sealed_chunk_bytes(index: u64, bytes: u64) -> usize {
    let before = index * CHUNK_BYTES as u64;
    let plain = bytes.saturating_sub(before).min(CHUNK_BYTES as u64);
    usize::try_from(plain).unwrap_or(CHUNK_BYTES) + TAG_BYTES
}

/// Seals or opens the chunks of one file.
pub(crate) struct ChunkCipher(LessSafeKey);

impl ChunkCipher {
    /// The cipher of the file that starts with `head`. `label` keeps a file and its renderings apart.
    pub fn new(data_key: &SecretKey, head: &Head, label: &str) -> Result<Self, Unsealable> {
        let half = head.strip_prefix(MAGIC.as_slice()).ok_or(Unsealable)?;
        let secret = Salt::new(HKDF_SHA256, half).extract(data_key.expose());
        let info = [b"wardstone blob 1".as_slice(), label.as_bytes()];
        let key = secret.expand(&info, &AES_256_GCM).map_err(|_| Unsealable)?;
        Ok(Self(LessSafeKey::new(UnboundKey::from(key))))
    }

    /// Seals a chunk in place.
    pub fn seal(&self, index: u32, last: bool, chunk: &mut Vec<u8>) {
        self.0
            .seal_in_place_append_tag(nonce(index, last), Aad::empty(), chunk)
            .expect("a chunk is far below AES-GCM's limit");
    }

    /// Opens a chunk in place; `chunk` is then its plain bytes.
    ///
    /// # Errors
    ///
    /// [`Unsealable`] if a bit differs, or the chunk stood elsewhere or in another file.
    pub fn open(&self, index: u32, last: bool, chunk: &mut Vec<u8>) -> Result<(), Unsealable> {
        let plain = self
            .0
            .open_in_place(nonce(index, last), Aad::empty(), chunk)
            .map_err(|_| Unsealable)?
            .len();
        chunk.truncate(plain);
        Ok(())
    }
}

fn nonce(index: u32, last: bool) -> Nonce {
    let mut nonce = [0; 12];
    nonce[7..11].copy_from_slice(&index.to_be_bytes());
    nonce[11] = u8::from(last);
    Nonce::assume_unique_for_key(nonce)
}

#[cfg(test)]
mod tests {
    use appliance_model::OsDice;

    use super::*;

    #[test]
    fn lengths_fit_together() {
        let chunk = CHUNK_BYTES as u64;
        for bytes in [0, 1, chunk - 1, chunk, chunk + 1, 2 * chunk, 2 * chunk + 7] {
            let chunks = chunks_of(bytes);
            let sum: u64 = (0..chunks).map(|index| sealed_chunk_bytes(index, bytes) as u64).sum();
            assert_eq!(HEAD_BYTES as u64 + sum, sealed_bytes(bytes), "{bytes} bytes");
            assert_eq!(
                chunk_start(chunks - 1) + sealed_chunk_bytes(chunks - 1, bytes) as u64,
                sealed_bytes(bytes)
            );
        }
    }

    #[test]
    fn a_chunk_opens_only_at_its_place_in_its_file() {
        let (key, head) = (SecretKey::random(&OsDice), fresh_head(&OsDice));
        let cipher = ChunkCipher::new(&key, &head, "").unwrap();
        let mut sealed = b"a photo".to_vec();
        cipher.seal(3, false, &mut sealed);

        let open = |cipher: &ChunkCipher, index, last| {
            let mut chunk = sealed.clone();
            cipher.open(index, last, &mut chunk).map(|()| chunk)
        };
        assert_eq!(open(&cipher, 3, false).unwrap(), b"a photo");
        assert_eq!(open(&cipher, 2, false), Err(Unsealable), "another place");
        assert_eq!(open(&cipher, 3, true), Err(Unsealable), "cut off after it");
        let others = [
            ChunkCipher::new(&key, &fresh_head(&OsDice), "").unwrap(),
            ChunkCipher::new(&key, &head, "320x240s").unwrap(),
            ChunkCipher::new(&SecretKey::random(&OsDice), &head, "").unwrap(),
        ];
        for other in others {
            assert_eq!(open(&other, 3, false), Err(Unsealable), "another file");
        }
        assert!(ChunkCipher::new(&key, &[0; HEAD_BYTES], "").is_err(), "an overwritten head");
    }
}
