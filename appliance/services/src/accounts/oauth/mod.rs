//! The OAuth 2.0 API ([spec]): an app sends its user to this server's own page, gets a code, and turns it into
//! a session. The app never sees the password, and the page learns what an app cannot show: the certificate
//! of the device.
//!
//! The profile is the narrow one that Matrix asks for: public clients that register themselves, the
//! authorization code with PKCE (`S256`), refresh and revocation. Sessions, tokens and their ends are those
//! of every other way in.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#oauth-20-api

mod authorize;
mod client;
mod redeem;
mod redirect;
mod register;
mod revoke;
mod scope;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use appliance_ledger::Digest;
use appliance_model::Error;
use url::Url;

pub use authorize::{App, Asked, Refused, Said};
pub(super) use authorize::{CODES_MAX, Code};
pub use client::ClientMetadata;
pub use redeem::{Redemption, TokenGrant};

/// Where people sign in for apps, and which apps may send them there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OAuthOptions {
    /// The origin of the sign-in page, without a slash at its end.
    pub sign_in_url: String,
    /// Where apps reach this server, without a slash at its end.
    pub api_url: String,
    /// The hosts of the apps (`client_uri`) that may; empty: any.
    pub app_hosts: Vec<String>,
}

impl OAuthOptions {
    /// Whether an app whose own page is there may sign people in.
    fn takes(&self, client_uri: &Url) -> bool {
        let host = client_uri.host_str().unwrap_or_default();
        self.app_hosts.is_empty() || self.app_hosts.iter().any(|named| named == host)
    }
}

/// What is wrong with a request, in the words of the RFCs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Something is missing, twice there, or makes no sense.
    InvalidRequest,
    /// No such app is registered, or it is not the one it must be.
    InvalidClient,
    /// The code or the refresh token is not valid (any more), or is another app's.
    InvalidGrant,
    /// No such kind of grant.
    UnsupportedGrantType,
    /// Anything but `code`.
    UnsupportedResponseType,
    /// Not what this server gives.
    InvalidScope,
    /// The user said no.
    AccessDenied,
    /// An app may not be sent there.
    InvalidRedirectUri,
    /// What an app says of itself cannot be.
    InvalidClientMetadata,
}

impl Fault {
    /// Its name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::InvalidClient => "invalid_client",
            Self::InvalidGrant => "invalid_grant",
            Self::UnsupportedGrantType => "unsupported_grant_type",
            Self::UnsupportedResponseType => "unsupported_response_type",
            Self::InvalidScope => "invalid_scope",
            Self::AccessDenied => "access_denied",
            Self::InvalidRedirectUri => "invalid_redirect_uri",
            Self::InvalidClientMetadata => "invalid_client_metadata",
        }
    }
}

/// Why an app is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OAuthError {
    /// What it asks for is wrong: which of the RFCs' errors, and a sentence.
    Wrong(Fault, Cow<'static, str>),
    /// It comes too often, or the store fails.
    House(Error),
}

impl From<Error> for OAuthError {
    fn from(error: Error) -> Self {
        Self::House(error)
    }
}

fn wrong(fault: Fault, why: impl Into<Cow<'static, str>>) -> OAuthError {
    OAuthError::Wrong(fault, why.into())
}

/// The key of an app from its name on the wire: 32 digits of a keyed digest.
fn client_key(client_id: &str) -> Option<Digest> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if client_id.len() != 2 * size_of::<Digest>() || !client_id.bytes().all(is_digit) {
        return None;
    }
    u128::from_str_radix(client_id, 16).ok().map(u128::to_be_bytes)
}

/// The name of an app on the wire.
fn client_id(key: &Digest) -> String {
    format!("{:032x}", u128::from_be_bytes(*key))
}
