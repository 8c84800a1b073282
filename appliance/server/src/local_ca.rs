//! A certificate authority for one machine, so that `quickstart` speaks TLS without a stranger.
//!
//! It can only vouch for `localhost` and loopback addresses (name constraints), so whoever tells a
//! browser to trust it gives nothing away. The authority is made once; the server's certificate is
//! made anew at every start, so it never expires in the middle of a trial.

use std::path::{Path, PathBuf};
use std::time::Duration;

use appliance_model::{Clock, SystemClock};
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints,
};
use time::OffsetDateTime;

use crate::files;

/// Browsers refuse server certificates that live longer than 398 days.
const SERVER_LIFE: Duration = Duration::from_secs(90 * 86_400);
const CA_LIFE: Duration = Duration::from_secs(3_650 * 86_400);
/// Clocks of clients may be a little behind.
const BACKDATED: Duration = Duration::from_secs(3_600);

/// Names and addresses of this machine, seen from itself.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Where the files are.
pub struct LocalCa {
    folder: PathBuf,
}

impl LocalCa {
    /// The authority whose files are in `folder`, made now if there is none.
    ///
    /// # Errors
    ///
    /// A sentence: a file cannot be written.
    pub fn open(folder: &Path) -> Result<Self, String> {
        let ca = Self { folder: folder.to_owned() };
        if !ca.key_file().exists() {
            let key = KeyPair::generate().map_err(in_words)?;
            let certificate = ca_params()?.self_signed(&key).map_err(in_words)?;
            files::create(&ca.certificate_file(), &certificate.pem(), 0o644)?;
            // Last: with the key, the authority is there.
            files::create(&ca.key_file(), &key.serialize_pem(), 0o600)?;
        }
        Ok(ca)
    }

    /// The certificate that clients must trust.
    pub fn certificate_file(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    fn key_file(&self) -> PathBuf {
        self.folder.join("ca.key")
    }

    /// Makes a new certificate and key for this machine, in `server.pem` and `server.key`.
    ///
    /// # Errors
    ///
    /// A sentence: the authority's key is not one, or a file cannot be written.
    pub fn issue(&self) -> Result<(), String> {
        let key_file = self.key_file();
        let pem = std::fs::read_to_string(&key_file)
            .map_err(|error| format!("{}: {error}", key_file.display()))?;
        let ca_key =
            KeyPair::from_pem(&pem).map_err(|error| format!("{}: {error}", key_file.display()))?;
        let issuer = Issuer::new(ca_params()?, ca_key);
        let key = KeyPair::generate().map_err(in_words)?;
        let certificate = server_params()?.signed_by(&key, &issuer).map_err(in_words)?;
        files::replace(&self.folder.join("server.key"), &key.serialize_pem(), 0o600)?;
        files::replace(&self.folder.join("server.pem"), &certificate.pem(), 0o644)
    }
}

fn in_words(error: rcgen::Error) -> String {
    format!("cannot make a certificate: {error}")
}

fn ca_params() -> Result<CertificateParams, String> {
    let mut params = CertificateParams::new(Vec::new()).map_err(in_words)?;
    params.distinguished_name.push(DnType::CommonName, "Wardstone quickstart, this machine only");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![
            GeneralSubtree::DnsName("localhost".into()),
            GeneralSubtree::IpAddress(CidrSubnet::from_v4_prefix([127, 0, 0, 0], 8)),
            GeneralSubtree::IpAddress(CidrSubnet::from_v6_prefix(
                std::net::Ipv6Addr::LOCALHOST.octets(),
                128,
            )),
        ],
        excluded_subtrees: vec![],
    });
    live_for(&mut params, CA_LIFE);
    Ok(params)
}

fn server_params() -> Result<CertificateParams, String> {
    let names: Vec<String> = NAMES.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).map_err(in_words)?;
    params.distinguished_name.push(DnType::CommonName, "localhost");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    live_for(&mut params, SERVER_LIFE);
    Ok(params)
}

fn live_for(params: &mut CertificateParams, life: Duration) {
    let seconds = i64::try_from(SystemClock.now_ms() / 1_000).unwrap_or_default();
    // Only a clock in the far future has no such date; then the epoch says that it is wrong.
    let now = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    params.not_before = now - BACKDATED;
    params.not_after = now + life;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listen::tls::Certificate;
    use crate::settings::Tls;

    #[test]
    fn the_authority_stays_and_the_certificate_is_renewed() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        LocalCa::open(folder.path()).unwrap().issue().unwrap();
        let (ca, server) = (read("ca.pem"), read("server.pem"));
        LocalCa::open(folder.path()).unwrap().issue().unwrap();
        assert_eq!(read("ca.pem"), ca);
        assert_ne!(read("server.pem"), server);
        Certificate::read(Tls {
            certificate_file: folder.path().join("server.pem"),
            key_file: folder.path().join("server.key"),
            client_ca_file: None,
        })
        .unwrap();
    }
}
