//! Signing in and out on the photo page, with the Matrix account.
//!
//! The session is a Matrix device of class `browser-kiosk`; its access token is the cookie. It ends
//! when the browser is closed, after half an hour of rest, after a shift, or when its owner or an
//! administrator ends it like any other device.

use std::sync::Arc;

use appliance_model::{Caller, Error, Kind, Role, SessionClass};
use appliance_services::Services;
use appliance_services::accounts::{Login, NewSession};
use axum::extract::{Request, State};
use http::header::{COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderValue};
use serde::Deserialize;
use serde_json::json;

use super::{Answer, Asked, CLEAR_SITE_DATA, SMALL_BODY_BYTES_MAX, empty};
use crate::json_body;
use crate::route::{json_response, missing_token, read_body};

/// `__Host-`: only over TLS (or on the machine itself), only for this very host.
const NAME: &str = "__Host-wardstone-photos";

#[derive(Deserialize)]
struct SignIn {
    user: String,
    password: String,
}

pub(super) async fn open(state: State<Arc<Services>>, request: Request) -> Answer {
    let (asked, body) = Asked::read(state, request)?;
    let body = read_body(body, SMALL_BODY_BYTES_MAX).await?;
    json_body::check(&body)?;
    let malformed = |_| Error::new(Kind::BadJson, "Give `user` and `password`, both texts.");
    let SignIn { user, password } = serde_json::from_slice(&body).map_err(malformed)?;
    let session = NewSession {
        display_name: Some("Photo page".to_owned()),
        class: Some(SessionClass::BrowserKiosk),
        ..NewSession::default()
    };
    let address = asked.address.map(|address| address.0);
    let login = Login { user, password, session, address };
    let session = asked.services.accounts.login(login).await?;
    let cookie =
        format!("{NAME}={}; Path=/; Secure; HttpOnly; SameSite=Strict", session.access_token);
    let answer = json!({ "user_id": session.user_id }).to_string();
    let mut response = json_response(http::StatusCode::OK, answer);
    let cookie = HeaderValue::from_str(&cookie).map_err(Error::internal)?;
    response.headers_mut().insert(SET_COOKIE, cookie);
    Ok(response)
}

pub(super) async fn close(state: State<Arc<Services>>, request: Request) -> Answer {
    let (asked, _) = Asked::read(state, request)?;
    match asked.caller_to_leave().await {
        Ok(caller) => asked.services.accounts.logout(&caller).await?,
        // It has ended already: the browser forgets all the same.
        Err(error) if matches!(error.kind, Kind::UnknownToken { .. } | Kind::MissingToken) => {}
        Err(error) => return Err(error.into()),
    }
    let mut response = empty();
    let all = HeaderValue::from_static("\"cache\", \"cookies\", \"storage\"");
    response.headers_mut().insert(CLEAR_SITE_DATA, all);
    Ok(response)
}

impl Asked {
    /// Who asks.
    ///
    /// # Errors
    ///
    /// [`Kind::MissingToken`] or [`Kind::UnknownToken`] if nobody is signed in,
    /// [`Kind::UserSuspended`] for suspended accounts.
    pub(super) async fn caller(&self) -> Result<Caller, Error> {
        let token = cookie(&self.headers).ok_or_else(missing_token)?;
        let address = self.address.map(|address| address.0);
        let caller = self.services.accounts.admit(&token, address).await?;
        if caller.role == Role::Suspended {
            let why = "An administrator of this server has suspended this account.";
            return Err(Error::new(Kind::UserSuspended, why));
        }
        Ok(caller)
    }

    async fn caller_to_leave(&self) -> Result<Caller, Error> {
        let token = cookie(&self.headers).ok_or_else(missing_token)?;
        self.services.accounts.authenticate_to_sign_out(&token).await
    }
}

fn cookie(headers: &HeaderMap) -> Option<String> {
    let pairs = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs =
        pairs.flat_map(|value| value.split(';')).filter_map(|pair| pair.split_once('='));
    pairs.find_map(|(name, value)| (name.trim() == NAME).then(|| value.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cookie_is_found_among_others() {
        let mut headers = HeaderMap::new();
        assert_eq!(cookie(&headers), None);
        headers.append(COOKIE, HeaderValue::from_static("a=b"));
        headers.append(COOKIE, HeaderValue::from_static("x=y; __Host-wardstone-photos=abc; z"));
        assert_eq!(cookie(&headers).as_deref(), Some("abc"));
    }
}
