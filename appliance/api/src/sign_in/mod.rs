//! Where apps send people to sign in (OAuth 2.0), on an origin of its own, on a listener of kind `sign_in`. That
//! listener may ask browsers for a certificate: apps have none of the device's, the browsers that they open
//! for this page have.
//!
//! The page is inert: it asks what the app wants, shows it, and nothing happens before somebody has typed a
//! password and pressed the button. Even back to the app nobody is sent who has not pressed one.
//!
//! | Request | What it does |
//! |---|---|
//! | `GET /authorize` | the page |
//! | `POST /authorize/app` | which app asks for what; the body is the page's query |
//! | `POST /authorize/sign_in` | a user name and a password for a code |

#[cfg(test)]
mod tests;

use std::sync::Arc;

use appliance_model::{Error, Kind, SessionClass};
use appliance_services::Services;
use appliance_services::accounts::{Asked as Authorization, Refused, Said};
use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::{get, post};
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use crate::error::refuse;
use crate::json_body;
use crate::own_page::{Answer, Asked, asset, harden};
use crate::route::{json_response, read_body};

/// A query of 8 KiB in JSON, a name and a password.
const BODY_BYTES_MAX: usize = 32 * 1024;

pub(crate) fn router(services: Arc<Services>) -> Router {
    let page = || async { asset("text/html; charset=utf-8", include_str!("assets/page.html")) };
    let style = || async { asset("text/css", include_str!("assets/page.css")) };
    let script =
        || async { asset("text/javascript; charset=utf-8", include_str!("assets/page.js")) };
    let unknown =
        || async { refuse(&Error::new(Kind::Unrecognized, "There is no such page here.")) };
    Router::new()
        .route("/authorize", get(page))
        .route("/page.css", get(style))
        .route("/page.js", get(script))
        .route("/authorize/app", post(app))
        .route("/authorize/sign_in", post(sign_in))
        .fallback(unknown)
        .layer(map_response(unstored))
        .with_state(services)
}

async fn unstored(mut response: Response) -> Response {
    let policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                  base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    harden(&mut response, policy, "camera=(), geolocation=(), microphone=()");
    response
}

/// The class of a session that begins on this page.
fn class(asked: &Asked) -> SessionClass {
    let default = asked.services.house.options.policy.session_class;
    asked.door.map_or(default, |door| door.0)
}

/// What the page shows.
async fn app(state: State<Arc<Services>>, request: Request) -> Answer {
    let (asked, body) = Asked::read(state, request)?;
    let body = read_body(body, BODY_BYTES_MAX).await?;
    let not_text = |_| Error::invalid_param("What the app asks is no text.");
    let query = std::str::from_utf8(&body).map_err(not_text)?;
    let authorization = match authorization(&asked, query).await? {
        Ok(authorization) => authorization,
        Err(refused) => return Ok(refusal(&refused)),
    };
    let app = &authorization.app;
    let answer = json!({
        "app": {
            "name": app.name, "uri": app.uri, "tos_uri": app.tos_uri, "policy_uri": app.policy_uri,
        },
        "server_name": asked.services.house.server_name,
        "device": class(&asked).as_str(),
        "login_hint": authorization.login_hint,
        "back": authorization.declined(),
    });
    Ok(json_response(StatusCode::OK, answer.to_string()))
}

#[derive(Deserialize)]
struct SignIn {
    query: String,
    user: String,
    password: String,
}

async fn sign_in(state: State<Arc<Services>>, request: Request) -> Answer {
    let (asked, body) = Asked::read(state, request)?;
    let body = read_body(body, BODY_BYTES_MAX).await?;
    json_body::check(&body)?;
    // The detail of a parser could repeat the password.
    let malformed =
        |_| Error::new(Kind::BadJson, "Give `query`, `user` and `password`, all of them texts.");
    let SignIn { query, user, password } = serde_json::from_slice(&body).map_err(malformed)?;
    let authorization = match authorization(&asked, &query).await? {
        Ok(authorization) => authorization,
        Err(refused) => return Ok(refusal(&refused)),
    };
    let (class, address) = (asked.door.map(|door| door.0), asked.address.map(|address| address.0));
    let accounts = &asked.services.accounts;
    let back = accounts.grant(authorization, (&user, password), class, address).await?;
    Ok(json_response(StatusCode::OK, json!({ "back": back }).to_string()))
}

async fn authorization(
    asked: &Asked,
    query: &str,
) -> Result<Result<Authorization, Refused>, Error> {
    match Said::read(query) {
        Ok(said) => asked.services.accounts.authorization(&said).await,
        Err(refused) => Ok(Err(refused)),
    }
}

/// A sentence, and the way back if it is the app's.
fn refusal(refused: &Refused) -> Response {
    let answer = json!({ "error": refused.why, "back": refused.return_to });
    json_response(StatusCode::BAD_REQUEST, answer.to_string())
}
