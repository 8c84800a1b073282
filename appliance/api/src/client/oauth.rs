//! The OAuth 2.0 API, as far as apps speak with it ([spec]): what is where, registration, tokens, revocation.
//! Where people sign in is a page of another origin ([`crate::sign_in`]). These endpoints stand beside the rest
//! of what apps call, because the other listener may ask browsers for certificates, which apps do not have.
//!
//! Without a sign-in page none of this is there.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#oauth-20-api

use appliance_model::{Error, Kind};
use appliance_services::accounts::{
    ClientMetadata, Fault, OAuthError, OAuthOptions, Redemption, TokenGrant,
};
use axum::response::Response;
use http::header::{CACHE_CONTROL, PRAGMA};
use http::{HeaderValue, Method, StatusCode};
use serde_json::{Map, Value, json};

use crate::error::refuse;
use crate::json_body;
use crate::route::{Access, RawRequest, Routes, Visit, json_response, read_body};

const METADATA: [&str; 2] = [
    "/_matrix/client/v1/auth_metadata",
    "/_matrix/client/unstable/org.matrix.msc2965/auth_metadata",
];
const REGISTER: &str = "/_matrix/client/unstable/io.wardstone/oauth/register";
const TOKEN: &str = "/_matrix/client/unstable/io.wardstone/oauth/token";
const REVOKE: &str = "/_matrix/client/unstable/io.wardstone/oauth/revoke";

/// Ten addresses of 2,000 bytes, and room for what other servers look at.
const METADATA_BYTES_MAX: usize = 64 * 1024;
/// A code, its verifier and an address.
const FORM_BYTES_MAX: usize = 16 * 1024;

pub(crate) fn add(routes: &mut Routes) {
    // "404 M_UNRECOGNIZED": a server without OAuth 2.0 has no such endpoints at all.
    if !routes.has_oauth() {
        return;
    }
    for path in METADATA {
        routes.serve_raw(Method::GET, path, Access::Open, metadata);
    }
    routes.serve_raw(Method::POST, REGISTER, Access::Open, register);
    routes.serve_raw(Method::POST, TOKEN, Access::Open, token);
    routes.serve_raw(Method::POST, REVOKE, Access::Open, revoke);
}

fn options(visit: &Visit<RawRequest>) -> Result<&OAuthOptions, Error> {
    let none = || Error::new(Kind::Unrecognized, "This server has no OAuth 2.0.");
    visit.services.house.options.oauth.as_ref().ok_or_else(none)
}

/// Nothing is named here that is not there: clients switch on what is named.
async fn metadata(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let OAuthOptions { sign_in_url, api_url, .. } = options(&visit)?;
    let answer = json!({
        "issuer": format!("{api_url}/"),
        "authorization_endpoint": format!("{sign_in_url}/authorize"),
        "token_endpoint": format!("{api_url}{TOKEN}"),
        "revocation_endpoint": format!("{api_url}{REVOKE}"),
        "registration_endpoint": format!("{api_url}{REGISTER}"),
        "response_types_supported": ["code"],
        "response_modes_supported": ["query", "fragment"],
        "grant_types_supported": ["authorization_code", "refresh_token"],
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": ["none"],
        "revocation_endpoint_auth_methods_supported": ["none"],
    });
    Ok(json_response(StatusCode::OK, answer.to_string()))
}

/// "Upon successful registration, the server replies with an *HTTP 201 Created* response".
async fn register(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let address = visit.address();
    let body = read_body(visit.request.body, METADATA_BYTES_MAX).await?;
    let registered = async {
        json_body::check(&body)
            .map_err(|error| OAuthError::Wrong(Fault::InvalidClientMetadata, error.message))?;
        let metadata = ClientMetadata::read(&body)?;
        let mut answer = metadata.to_json();
        let client_id = visit.services.accounts.register_client(metadata, address).await?;
        answer.insert("client_id".to_owned(), client_id.into());
        Ok(json_response(StatusCode::CREATED, Value::Object(answer).to_string()))
    };
    Ok(unstored(registered.await.unwrap_or_else(|error| answer_error(&error))))
}

async fn token(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let (address, class) = (visit.address(), visit.door);
    let accounts = &visit.services.accounts;
    let body = read_body(visit.request.body, FORM_BYTES_MAX).await?;
    let granted = async {
        let form = Fields::read(&body)?;
        match form.need("grant_type")? {
            "authorization_code" => {
                let brought = Redemption {
                    code: form.need("code")?,
                    client_id: form.need("client_id")?,
                    redirect_uri: form.need("redirect_uri")?,
                    verifier: form.need("code_verifier")?,
                    class,
                    address,
                };
                accounts.redeem(brought).await
            }
            "refresh_token" => {
                let (client_id, token) = (form.need("client_id")?, form.need("refresh_token")?);
                accounts.refresh_for(client_id, token, address).await
            }
            _ => Err(OAuthError::Wrong(
                Fault::UnsupportedGrantType,
                "This server knows `authorization_code` and `refresh_token`.".into(),
            )),
        }
    };
    let answer =
        granted.await.map_or_else(|error| answer_error(&error), |granted| tokens(&granted));
    Ok(unstored(answer))
}

fn tokens(granted: &TokenGrant) -> Response {
    let session = &granted.session;
    let mut answer = Map::new();
    answer.insert("access_token".to_owned(), session.access_token.as_str().into());
    answer.insert("token_type".to_owned(), "Bearer".into());
    if let Some(expires_in_ms) = session.expires_in_ms {
        answer.insert("expires_in".to_owned(), (expires_in_ms / 1_000).into());
    }
    if let Some(refresh_token) = &session.refresh_token {
        answer.insert("refresh_token".to_owned(), refresh_token.as_str().into());
    }
    if let Some(scope) = &granted.scope {
        answer.insert("scope".to_owned(), scope.as_str().into());
    }
    json_response(StatusCode::OK, Value::Object(answer).to_string())
}

async fn revoke(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let address = visit.address();
    let accounts = &visit.services.accounts;
    let body = read_body(visit.request.body, FORM_BYTES_MAX).await?;
    let revoked = async {
        let form = Fields::read(&body)?;
        accounts.revoke(form.need("token")?, form.get("client_id"), address).await?;
        Ok(json_response(StatusCode::OK, "{}"))
    };
    Ok(unstored(revoked.await.unwrap_or_else(|error| answer_error(&error))))
}

/// The fields of a form, each once.
struct Fields(Vec<(String, String)>);

impl Fields {
    fn read(body: &[u8]) -> Result<Self, OAuthError> {
        let mut fields: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(body) {
            // "Parameters sent without a value MUST be treated as if they were omitted from the request …
            // parameters MUST NOT be included more than once."
            if value.is_empty() {
                continue;
            }
            if fields.iter().any(|(other, _)| *other == name) {
                let why = "A parameter is there twice.";
                return Err(OAuthError::Wrong(Fault::InvalidRequest, why.into()));
            }
            fields.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self(fields))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    fn need(&self, name: &str) -> Result<&str, OAuthError> {
        let missing = || {
            let why = format!("`{name}` is missing.");
            OAuthError::Wrong(Fault::InvalidRequest, why.into())
        };
        self.get(name).ok_or_else(missing)
    }
}

/// An error as the RFCs want it; what has no word there is answered as everywhere.
fn answer_error(error: &OAuthError) -> Response {
    match error {
        OAuthError::House(error) => refuse(error),
        OAuthError::Wrong(fault, why) => {
            // "400 (Bad Request) … invalid_client: … MAY return an HTTP 401".
            let status = match fault {
                Fault::InvalidClient => StatusCode::UNAUTHORIZED,
                _ => StatusCode::BAD_REQUEST,
            };
            let answer = json!({ "error": fault.as_str(), "error_description": why });
            json_response(status, answer.to_string())
        }
    }
}

/// "The authorization server MUST include the HTTP `Cache-Control` response header field with a value of
/// `no-store` … as well as the `Pragma` response header field with a value of `no-cache`."
fn unstored(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
    response
}
