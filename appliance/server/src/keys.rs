//! The two keys of a server, in files of their own: the master key that wraps the store's data keys,
//! and the key that signs events.
//!
//! `master.key` is 32 bytes, raw or as Base64 text. `signing.key` is one line, `ed25519 VERSION
//! BASE64`, where the Base64 is a PKCS#8 document. Both are created readable by the owner alone.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use appliance_ledger::SecretKey;
use appliance_model::ruma::signatures::Ed25519KeyPair;
use appliance_model::{Dice, OsDice};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use rustls::server::ParsedCertificate;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer};

/// A key version is what peers see beside each signature; six letters do not repeat by accident.
const VERSION_LETTERS: usize = 6;

/// Reads the master key of a server that is about to start.
///
/// # Errors
///
/// A sentence for the administrator; also while a rotation waits to be finished.
pub fn master_key_to_start(path: &Path) -> Result<SecretKey, String> {
    if next_master_key(path).exists() {
        return Err(format!(
            "the rotation of the master key {} was interrupted; run `wardstone store rotate-key` to \
             finish it",
            path.display()
        ));
    }
    read_master_key(path)
}

/// Reads the master key.
///
/// # Errors
///
/// A sentence for the administrator.
pub fn read_master_key(path: &Path) -> Result<SecretKey, String> {
    let bytes = fs::read(path).map_err(|error| unreadable("master key", path, &error))?;
    let text = || {
        let text = std::str::from_utf8(&bytes).ok()?.trim().trim_end_matches('=');
        SecretKey::from_bytes(&BASE64.decode(text).ok()?)
    };
    SecretKey::from_bytes(&bytes).or_else(text).ok_or_else(|| {
        format!(
            "the master key in {} is not 32 bytes: restore it from where it was kept at the \
             installation; without it the store cannot be read",
            path.display()
        )
    })
}

/// Makes a new master key.
///
/// # Errors
///
/// A sentence for the administrator; never overwrites a file.
pub fn create_master_key(path: &Path) -> Result<(), String> {
    create(path, SecretKey::random(&OsDice).expose())
}

/// Where the next master key lies while a rotation is going on. A server does not start while it is
/// there: some keys are wrapped by the one, some by the other.
pub fn next_master_key(path: &Path) -> PathBuf {
    with_ending(path, "new")
}

/// Puts the next master key in the place of `path`; the old one is kept beside it. Returns where.
///
/// # Errors
///
/// A sentence for the administrator.
pub fn replace_master_key(path: &Path) -> Result<PathBuf, String> {
    let kept = (1..u32::MAX)
        .map(|number| with_ending(path, &format!("old-{number}")))
        .find(|kept| !kept.exists())
        .ok_or("there are too many old keys")?;
    let replace = || {
        // A link first, so that at no moment there is no key of that name.
        fs::hard_link(path, &kept)?;
        fs::rename(next_master_key(path), path)?;
        path.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
    };
    replace().map_err(|error: std::io::Error| format!("{}: {error}", path.display()))?;
    Ok(kept)
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

/// Reads the signing key.
///
/// # Errors
///
/// A sentence for the administrator.
pub fn read_signing_key(path: &Path) -> Result<Ed25519KeyPair, String> {
    let text = fs::read_to_string(path).map_err(|error| unreadable("signing key", path, &error))?;
    let mut words = text.split_whitespace();
    let key = match (words.next(), words.next(), words.next()) {
        (Some("ed25519"), Some(version), Some(document)) => BASE64
            .decode(document.trim_end_matches('='))
            .ok()
            .and_then(|document| Ed25519KeyPair::from_der(&document, version.to_owned()).ok()),
        _ => None,
    };
    key.ok_or_else(|| {
        format!("the signing key in {} is not one; restore it from a backup", path.display())
    })
}

/// Makes a new signing key.
///
/// # Errors
///
/// A sentence for the administrator; never overwrites a file.
pub fn create_signing_key(path: &Path) -> Result<(), String> {
    let version = OsDice.letters(VERSION_LETTERS);
    let document = BASE64.encode(&*Ed25519KeyPair::generate());
    create(path, format!("ed25519 a_{version} {document}\n").as_bytes())
}

fn create(path: &Path, content: &[u8]) -> Result<(), String> {
    let write = || {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(|error| format!("cannot create {}: {error}", path.display()))
}

fn unreadable(what: &str, path: &Path, error: &std::io::Error) -> String {
    format!(
        "cannot read the {what} {}: {error}. A new server gets its keys from `wardstone init`; an \
         old one has them in its backup",
        path.display()
    )
}

/// A public key (`SubjectPublicKeyInfo`, DER) from PEM: the key itself, or a certificate of it.
///
/// # Errors
///
/// Why not, for the end of a sentence.
pub fn read_public_key(file: &Path) -> Result<Vec<u8>, String> {
    if let Ok(key) = SubjectPublicKeyInfoDer::from_pem_file(file) {
        return Ok(key.to_vec());
    }
    let certificate = CertificateDer::from_pem_file(file)
        .map_err(|error| format!("neither a public key nor a certificate in PEM: {error}"))?;
    let parsed = ParsedCertificate::try_from(&certificate).map_err(|error| error.to_string())?;
    Ok(parsed.subject_public_key_info().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_back_as_they_were_made_and_are_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let (master, signing) = (folder.path().join("m/master.key"), folder.path().join("s.key"));
        create_master_key(&master).unwrap();
        create_signing_key(&signing).unwrap();
        let first = read_master_key(&master).unwrap();
        assert_eq!(fs::read(&master).unwrap(), first.expose());
        assert!(create_master_key(&master).is_err());
        let key = read_signing_key(&signing).unwrap();
        assert!(key.version().starts_with("a_"));
        fs::write(&master, BASE64.encode(first.expose()) + "\n").unwrap();
        assert_eq!(read_master_key(&master).unwrap().expose(), first.expose());
        fs::write(&master, b"short").unwrap();
        assert!(read_master_key(&master).unwrap_err().contains("32 bytes"));
    }
}
