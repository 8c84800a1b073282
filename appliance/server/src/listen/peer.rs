//! Certificates that other servers show when they connect. Any is taken, and none: which one it must be is
//! known when the request says whose it is ([`PeerCertificate`]).

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use appliance_services::peers::{PeerCertificate, ShownCertificate};
use aws_lc_rs::digest::{SHA256, digest};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};

/// A chain that was found good is looked at again after this: certificates end.
const LOOKED_AT: Duration = Duration::from_secs(60);

/// Asks for a certificate, of these authorities if they are named, and takes any, or none; that whoever shows it
/// has its key is verified.
pub fn any_certificate(
    provider: &CryptoProvider,
    wanted: Vec<DistinguishedName>,
) -> Arc<dyn ClientCertVerifier> {
    Arc::new(Any(provider.signature_verification_algorithms, wanted))
}

#[derive(Debug)]
struct Any(WebPkiSupportedAlgorithms, Vec<DistinguishedName>);

impl ClientCertVerifier for Any {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.1
    }

    /// Whose it is does not matter yet.
    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

/// What was shown in a handshake, for those who know whose it must be.
pub fn shown(chain: Option<&[CertificateDer<'_>]>) -> Option<PeerCertificate> {
    let chain: Vec<_> = chain?.iter().map(|one| one.clone().into_owned()).collect();
    let key = key_sha256(chain.first()?).ok()?;
    Some(PeerCertificate(Arc::new(Chain { chain, key, good: Mutex::default() })))
}

/// SHA-256 of a certificate's public key.
///
/// # Errors
///
/// It is no certificate.
pub fn key_sha256(certificate: &CertificateDer<'_>) -> Result<[u8; 32], String> {
    let parsed = ParsedCertificate::try_from(certificate).map_err(|error| error.to_string())?;
    let key = digest(&SHA256, &parsed.subject_public_key_info());
    key.as_ref().try_into().map_err(|_| "a digest of another length".to_owned())
}

struct Chain {
    chain: Vec<CertificateDer<'static>>,
    key: [u8; 32],
    /// Under which authorities it was found good, and when: seconds since the Unix epoch.
    good: Mutex<Option<(String, u64)>>,
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} certificates", self.chain.len())
    }
}

impl ShownCertificate for Chain {
    fn key_sha256(&self) -> [u8; 32] {
        self.key
    }

    fn comes_from(&self, authorities: &str) -> Result<(), String> {
        let now = UnixTime::now();
        let mut good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = good.as_ref().is_some_and(|(under, at)| {
            under == authorities && now.as_secs().abs_diff(*at) < LOOKED_AT.as_secs()
        });
        if is_known {
            return Ok(());
        }
        let roots = Arc::new(appliance_egress::authorities(authorities)?);
        let provider = super::tls::provider()?;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
        let verifier = verifier.build().map_err(|error| error.to_string())?;
        let (first, others) = self.chain.split_first().ok_or("no certificate")?;
        verifier.verify_client_cert(first, others, now).map_err(|error| error.to_string())?;
        *good = Some((authorities.to_owned(), now.as_secs()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose as Usage, IsCa,
        Issuer, KeyPair, date_time_ymd,
    };

    use super::*;

    struct Authority {
        pem: String,
        issuer: Issuer<'static, KeyPair>,
    }

    fn authority(name: &str) -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { pem, issuer: Issuer::new(params, key) }
    }

    fn made(by: &Authority, change: impl FnOnce(&mut CertificateParams)) -> PeerCertificate {
        let mut params = CertificateParams::new(vec!["b.example".to_owned()]).unwrap();
        params.use_authority_key_identifier_extension = true;
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &by.issuer).unwrap();
        let shown = shown(Some(&[certificate.der().clone()])).unwrap();
        assert_eq!(shown.0.key_sha256(), key_sha256(certificate.der()).unwrap());
        shown
    }

    #[test]
    fn a_certificate_counts_if_its_authority_made_it_for_clients_and_it_is_not_over() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let (ours, other) = (authority("ours"), authority("other"));
        let plain = made(&ours, |_| {});
        // The second time it is known.
        for _ in 0..2 {
            assert_eq!(plain.0.comes_from(&ours.pem), Ok(()));
            assert!(plain.0.comes_from(&other.pem).is_err());
        }
        assert!(plain.0.comes_from("no PEM").is_err());
        let both = format!("{}{}", other.pem, ours.pem);
        assert_eq!(plain.0.comes_from(&both), Ok(()), "one of several is enough");
        let client = made(&ours, |made| made.extended_key_usages = vec![Usage::ClientAuth]);
        assert_eq!(client.0.comes_from(&ours.pem), Ok(()));
        let server = made(&ours, |made| made.extended_key_usages = vec![Usage::ServerAuth]);
        assert!(server.0.comes_from(&ours.pem).is_err(), "not for clients");
        let over = made(&ours, |made| made.not_after = date_time_ymd(2024, 1, 1));
        assert!(over.0.comes_from(&ours.pem).is_err(), "over");
        assert!(shown(None).is_none() && shown(Some(&[])).is_none());
    }
}
