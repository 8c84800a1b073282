//! What an app says of itself when it registers ([spec]), and what of it is taken.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#client-registration

use appliance_ledger::rows::extras::OAuthClientRow;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use url::Url;

use super::redirect::{self, shares_base};
use super::{Fault, OAuthError, wrong};

/// An app has one for each system that it runs on, and a few for those who build it.
const REDIRECT_URIS_MAX: usize = 10;
/// What fits on a line of the page.
const NAME_CHARS_MAX: usize = 100;

/// The metadata that this server looks at; the rest it does not register, and says so by leaving it out.
#[derive(Deserialize)]
struct Stated {
    client_uri: Option<String>,
    client_name: Option<String>,
    tos_uri: Option<String>,
    policy_uri: Option<String>,
    #[serde(default)]
    redirect_uris: Vec<String>,
    // Of RFC 7591: "If omitted, the default is …".
    response_types: Option<Vec<String>>,
    grant_types: Option<Vec<String>>,
    token_endpoint_auth_method: Option<String>,
    application_type: Option<String>,
}

/// An app's metadata that keeps the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientMetadata {
    pub(super) uri: Url,
    name: Option<String>,
    redirect_uris: Vec<String>,
    is_native: bool,
    tos_uri: Option<String>,
    policy_uri: Option<String>,
}

impl ClientMetadata {
    /// Reads the body of a registration.
    ///
    /// # Errors
    ///
    /// [`Fault::InvalidRedirectUri`] and [`Fault::InvalidClientMetadata`].
    pub fn read(body: &[u8]) -> Result<Self, OAuthError> {
        let no = |why: &'static str| wrong(Fault::InvalidClientMetadata, why);
        let stated: Stated = serde_json::from_slice(body)
            .map_err(|_| no("The metadata of an app is a JSON object of texts and lists."))?;
        let uri = stated.client_uri.as_deref().ok_or_else(|| no("`client_uri` is missing."))?;
        let uri = redirect::parse(uri)
            .filter(|uri| uri.scheme() == "https" && uri.host().is_some())
            .ok_or_else(|| no("`client_uri` is an https URL without a user or a password."))?;
        for (page, why) in [
            (&stated.tos_uri, "`tos_uri` is an https URL on the host of `client_uri` or below."),
            (
                &stated.policy_uri,
                "`policy_uri` is an https URL on the host of `client_uri` or below.",
            ),
        ] {
            let page = page.as_deref().map(redirect::parse);
            if page.is_some_and(|page| !page.is_some_and(|page| shares_base(&page, &uri))) {
                return Err(no(why));
            }
        }
        check_profile(&stated).map_err(no)?;
        // A name is shown to people: nothing in it may hide or turn around what stands beside it.
        let is_odd = |c: char| c.is_control() || ('\u{200b}'..='\u{206f}').contains(&c);
        let is_name =
            |name: &str| name.chars().count() <= NAME_CHARS_MAX && !name.chars().any(is_odd);
        let name = stated.client_name.filter(|name| !name.trim().is_empty());
        if name.as_deref().is_some_and(|name| !is_name(name)) {
            return Err(no("A name has up to 100 characters, all of which can be seen."));
        }
        let is_native = match stated.application_type.as_deref() {
            None | Some("web") => false,
            Some("native") => true,
            Some(_) => return Err(no("`application_type` is `web` or `native`.")),
        };
        let redirect_uris = stated.redirect_uris;
        if !(1..=REDIRECT_URIS_MAX).contains(&redirect_uris.len()) {
            return Err(wrong(Fault::InvalidRedirectUri, "Register 1 to 10 redirect URIs."));
        }
        for redirect_uri in &redirect_uris {
            redirect::check(redirect_uri, &uri, is_native)
                .map_err(|why| wrong(Fault::InvalidRedirectUri, why))?;
        }
        let (tos_uri, policy_uri) = (stated.tos_uri, stated.policy_uri);
        Ok(Self { uri, name, redirect_uris, is_native, tos_uri, policy_uri })
    }

    /// What is answered, beside the name that it gets.
    pub fn to_json(&self) -> Map<String, Value> {
        let mut answer = Map::new();
        for (name, value) in [
            ("client_uri", json!(self.uri.as_str())),
            ("redirect_uris", json!(self.redirect_uris)),
            ("response_types", json!(["code"])),
            ("grant_types", json!(["authorization_code", "refresh_token"])),
            ("token_endpoint_auth_method", json!("none")),
            ("application_type", json!(if self.is_native { "native" } else { "web" })),
        ] {
            answer.insert(name.to_owned(), value);
        }
        for (name, value) in [
            ("client_name", &self.name),
            ("tos_uri", &self.tos_uri),
            ("policy_uri", &self.policy_uri),
        ] {
            if let Some(value) = value {
                answer.insert(name.to_owned(), value.as_str().into());
            }
        }
        answer
    }

    pub(super) fn into_row(self, registered_ms: u64) -> OAuthClientRow {
        let Self { uri, name, redirect_uris, is_native, tos_uri, policy_uri } = self;
        OAuthClientRow {
            uri: uri.into(),
            name,
            redirect_uris,
            is_native,
            tos_uri,
            policy_uri,
            registered_ms,
            used_ms: None,
        }
    }
}

/// "The `response_types` MUST include `code`; the `grant_types` MUST include `authorization_code` and
/// `refresh_token`"; those that are not understood are ignored. Apps here have no secret.
fn check_profile(stated: &Stated) -> Result<(), &'static str> {
    let has = |list: &Option<Vec<String>>, name: &str, is_default: bool| {
        list.as_ref().map_or(is_default, |list| list.iter().any(|other| other == name))
    };
    if !has(&stated.response_types, "code", true) {
        return Err("`response_types` has `code` in it.");
    }
    let grants = &stated.grant_types;
    if !has(grants, "authorization_code", true) || !has(grants, "refresh_token", false) {
        return Err("`grant_types` has `authorization_code` and `refresh_token` in it.");
    }
    if stated.token_endpoint_auth_method.as_deref() != Some("none") {
        return Err("`token_endpoint_auth_method` is `none`: apps have no secret here.");
    }
    Ok(())
}
