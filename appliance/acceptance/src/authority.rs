//! The authority that all servers of a test trust, and a certificate of it for `localhost`. The bench
//! compiles this file too.

use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// Writes `ca.pem`, `server.pem` and `server.key` into a folder.
///
/// # Errors
///
/// If no key can be made or no file written.
pub fn certify(folder: &Path) -> std::io::Result<()> {
    certify_as(folder, &["localhost"])
}

/// The same for other names and addresses.
///
/// # Errors
///
/// As [`certify`].
pub fn certify_as(folder: &Path, names: &[&str]) -> std::io::Result<()> {
    let made = made(names).map_err(std::io::Error::other)?;
    for (name, text) in ["ca.pem", "server.pem", "server.key"].into_iter().zip(made) {
        std::fs::write(folder.join(name), text)?;
    }
    Ok(())
}

fn made(names: &[&str]) -> Result<[String; 3], rcgen::Error> {
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    // Two certificates of one name would look like one that signed itself.
    ca.distinguished_name.push(DnType::CommonName, "The town's authority");
    let ca_pem = ca.self_signed(&ca_key)?.pem();
    let key = KeyPair::generate()?;
    let mut params =
        CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    params.distinguished_name.push(DnType::CommonName, names.first().copied().unwrap_or_default());
    // A device shows one of these, too.
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&key, &Issuer::new(ca, ca_key))?;
    Ok([ca_pem, certificate.pem(), key.serialize_pem()])
}
