//! The page walked as a browser walks it, as a stranger does, and by another site; and what apps ask.

#![cfg(test)]

use appliance_model::SessionClass;
use appliance_services::Options;
use appliance_services::accounts::OAuthOptions;
use axum::body::Body;
use axum::{Extension, Router};
use base64_of::challenge;
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::scenario::{Answer, Desk, open_house};
use crate::{DoorClass, sign_in};

const VERIFIER: &str = "a-verifier-of-forty-three-characters-or-more";
const BACK: &str = "io.element.app:/back";
const OAUTH: &str = "/_matrix/client/unstable/io.wardstone/oauth";

mod base64_of {
    /// The challenge of [`super::VERIFIER`]: SHA-256 in Base64 without padding, made here by hand.
    pub fn challenge(verifier: &str) -> String {
        use ruma::serde::Base64;
        use ruma::serde::base64::UrlSafe;
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, verifier.as_bytes());
        Base64::<UrlSafe, _>::new(digest.as_ref().to_vec()).encode()
    }
}

fn house(password_login: bool) -> Options {
    let oauth = Some(OAuthOptions {
        sign_in_url: "https://login.hospital.example".to_owned(),
        api_url: "https://matrix.hospital.example".to_owned(),
        app_hosts: Vec::new(),
    });
    Options { oauth, password_login, ..open_house() }
}

fn app(redirect_uri: &str) -> Value {
    json!({
        "client_name": "Element X",
        "client_uri": "https://element.io",
        "application_type": "native",
        "redirect_uris": [redirect_uri],
        "response_types": ["code"],
        "grant_types": ["authorization_code", "refresh_token"],
        "token_endpoint_auth_method": "none",
    })
}

fn query(client_id: &str, more: &[(&str, &str)]) -> String {
    let challenge = challenge(VERIFIER);
    let device = "urn:matrix:org.matrix.msc2967.client:api:* \
                  urn:matrix:org.matrix.msc2967.client:device:ABCDEFGHIJ";
    let said = [
        ("client_id", client_id),
        ("redirect_uri", BACK),
        ("response_type", "code"),
        ("code_challenge", &challenge),
        ("code_challenge_method", "S256"),
        ("scope", device),
        ("state", "xyz"),
    ];
    let is_kept = |(name, _): &(&str, &str)| !more.iter().any(|(other, _)| other == name);
    let said = said.into_iter().filter(is_kept).chain(more.iter().copied());
    form_urlencoded::Serializer::new(String::new()).extend_pairs(said).finish()
}

/// The sign-in page's listener, with a certificate shown or without.
fn page(desk: &Desk, door: Option<SessionClass>) -> Router {
    let router = sign_in(desk.services.clone());
    match door {
        Some(class) => router.layer(Extension(DoorClass(class))),
        None => router,
    }
}

async fn ring(router: &Router, request: Request<Body>) -> (u16, HeaderMap, Vec<u8>) {
    let answer = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = answer.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    (parts.status.as_u16(), parts.headers, bytes.to_vec())
}

/// As a script of the page asks.
async fn ask(router: &Router, path: &str, body: String) -> (u16, Value) {
    let request = Request::post(path).header("x-wardstone-page", "1");
    let request = request.header("sec-fetch-site", "same-origin").body(Body::from(body)).unwrap();
    let (status, _, bytes) = ring(router, request).await;
    (status, serde_json::from_slice(&bytes).unwrap_or_default())
}

async fn form(desk: &Desk, path: &str, fields: &[(&str, &str)]) -> Answer {
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    desk.call_raw("POST", &format!("{OAUTH}{path}"), "", body).await
}

async fn register(desk: &Desk) -> String {
    let answer = desk.post(&format!("{OAUTH}/register"), "", app(BACK)).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(answer.headers["cache-control"], "no-store");
    answer.text("client_id")
}

async fn code(desk: &Desk, client_id: &str, door: Option<SessionClass>) -> String {
    let sign_in =
        json!({ "query": query(client_id, &[]), "user": "nurse", "password": "nurse" }).to_string();
    let (status, answer) = ask(&page(desk, door), "/authorize/sign_in", sign_in).await;
    assert_eq!(status, 200, "{answer}");
    let back = answer["back"].as_str().unwrap();
    let (code, state) =
        back.strip_prefix("io.element.app:/back?code=").unwrap().split_once('&').unwrap();
    assert_eq!(state, "state=xyz");
    code.to_owned()
}

async fn redeem(desk: &Desk, client_id: &str, code: &str) -> Answer {
    let fields = [
        ("grant_type", "authorization_code"),
        ("client_id", client_id),
        ("redirect_uri", BACK),
        ("code", code),
        ("code_verifier", VERIFIER),
    ];
    form(desk, "/token", &fields).await
}

#[tokio::test]
async fn apps_learn_where_everything_is() {
    let desk = Desk::with(house(true)).await;
    let metadata = desk.get("/v1/auth_metadata", "").await;
    assert_eq!(metadata.headers["access-control-allow-origin"], "*", "for web clients");
    let metadata = metadata.ok();
    assert_eq!(desk.get("/unstable/org.matrix.msc2965/auth_metadata", "").await.ok(), metadata);
    let base = format!("https://matrix.hospital.example{OAUTH}");
    assert_eq!(
        metadata,
        json!({
            "issuer": "https://matrix.hospital.example/",
            "authorization_endpoint": "https://login.hospital.example/authorize",
            "token_endpoint": format!("{base}/token"),
            "revocation_endpoint": format!("{base}/revoke"),
            "registration_endpoint": format!("{base}/register"),
            "response_types_supported": ["code"],
            "response_modes_supported": ["query", "fragment"],
            "grant_types_supported": ["authorization_code", "refresh_token"],
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["none"],
            "revocation_endpoint_auth_methods_supported": ["none"],
        })
    );
    use ruma::api::client::discovery::get_authorization_server_metadata::v1::AuthorizationServerMetadata;
    let read: AuthorizationServerMetadata = serde_json::from_value(metadata).unwrap();
    read.validate_urls().unwrap();
}

#[tokio::test]
async fn a_house_without_a_page_has_no_such_endpoints() {
    let desk = Desk::new().await;
    for path in ["/register", "/token", "/revoke"] {
        let answer = form(&desk, path, &[]).await;
        assert_eq!(answer.error(), (404, "M_UNRECOGNIZED"), "{path}");
    }
}

#[tokio::test]
async fn the_page_asks_shows_and_signs_in() {
    let desk = Desk::with(house(true)).await;
    desk.sign_up("nurse").await;
    let client_id = register(&desk).await;
    let (status, shown) = ask(&page(&desk, None), "/authorize/app", query(&client_id, &[])).await;
    assert_eq!(status, 200, "{shown}");
    assert_eq!(shown["app"]["name"], "Element X");
    assert_eq!(shown["app"]["uri"], "https://element.io/");
    assert_eq!(
        (&shown["device"], &shown["server_name"]),
        (&json!("unmanaged"), &json!("hospital.example"))
    );
    assert!(
        shown["back"].as_str().unwrap().starts_with("io.element.app:/back?error=access_denied&")
    );
    let managed = page(&desk, Some(SessionClass::Managed));
    let (_, shown) = ask(&managed, "/authorize/app", query(&client_id, &[])).await;
    assert_eq!(shown["device"], "managed");

    for (door, class) in
        [(None, SessionClass::Unmanaged), (Some(SessionClass::Managed), SessionClass::Managed)]
    {
        let code = code(&desk, &client_id, door).await;
        let tokens = redeem(&desk, &client_id, &code).await;
        assert_eq!(tokens.headers["cache-control"], "no-store");
        assert_eq!(tokens.headers["pragma"], "no-cache");
        assert_eq!(tokens.headers["access-control-allow-origin"], "*");
        assert_eq!(
            (&tokens.json["token_type"], &tokens.json["expires_in"]),
            (&json!("Bearer"), &json!(300))
        );
        assert!(tokens.text("scope").ends_with("device:ABCDEFGHIJ"));
        let access = tokens.text("access_token");
        let whoami = desk.get("/v3/account/whoami", &access).await.ok();
        assert_eq!(
            (&whoami["user_id"], &whoami["device_id"]),
            (&json!("@nurse:hospital.example"), &json!("ABCDEFGHIJ"))
        );
        let caller = desk.services.accounts.authenticate(&access).await.unwrap();
        assert_eq!(caller.class, class);
    }
}

#[tokio::test]
async fn an_app_renews_and_revokes_and_hears_the_words_of_the_rfcs() {
    let desk = Desk::with(house(true)).await;
    desk.sign_up("nurse").await;
    let client_id = register(&desk).await;
    let tokens = redeem(&desk, &client_id, &code(&desk, &client_id, None).await).await;
    let refresh = tokens.text("refresh_token");
    let renew = async |client_id: &str| {
        let fields = [
            ("grant_type", "refresh_token"),
            ("client_id", client_id),
            ("refresh_token", &refresh),
        ];
        form(&desk, "/token", &fields).await
    };
    let refused = renew("00000000000000000000000000000000").await;
    assert_eq!((refused.status, refused.text("error")), (400, "invalid_grant".to_owned()));
    let renewed = renew(&client_id).await;
    let access = renewed.text("access_token");
    assert!(desk.is_in(&access).await);
    let refused = form(&desk, "/revoke", &[("token", &access), ("client_id", "other")]).await;
    assert_eq!((refused.status, refused.text("error")), (401, "invalid_client".to_owned()));
    let revoked = form(&desk, "/revoke", &[("token", &access), ("client_id", &client_id)]).await;
    assert_eq!(revoked.status, 200);
    assert!(!desk.is_in(&access).await);
    assert_eq!(form(&desk, "/revoke", &[("token", &access)]).await.status, 200);

    for (path, fields, error) in [
        ("/token", &[][..], "invalid_request"),
        ("/token", &[("grant_type", "password")], "unsupported_grant_type"),
        ("/token", &[("grant_type", "refresh_token")], "invalid_request"),
        (
            "/token",
            &[("grant_type", "refresh_token"), ("grant_type", "refresh_token")],
            "invalid_request",
        ),
        ("/revoke", &[], "invalid_request"),
    ] {
        let answer = form(&desk, path, fields).await;
        assert_eq!(
            (answer.status, answer.text("error").as_str()),
            (400, error),
            "{path} {fields:?}"
        );
    }
    for (body, error) in [
        (json!({}), "invalid_client_metadata"),
        (app("https://evil.example/"), "invalid_redirect_uri"),
        (app("io.element.app://back"), "invalid_redirect_uri"),
    ] {
        let answer = desk.post(&format!("{OAUTH}/register"), "", body).await;
        assert_eq!((answer.status, answer.text("error").as_str()), (400, error));
        assert!(answer.json["error_description"].is_string());
    }
    let not_json = desk.call_raw("POST", &format!("{OAUTH}/register"), "", "{".to_owned()).await;
    assert_eq!(not_json.status, 400);
}

/// A stranger, another site, a link preview: nobody but the page gets anything out of it.
#[tokio::test]
async fn the_page_is_inert_and_answers_itself_alone() {
    let desk = Desk::with(house(true)).await;
    desk.sign_up("nurse").await;
    let client_id = register(&desk).await;
    let router = page(&desk, None);
    for path in ["/authorize", "/page.css", "/page.js"] {
        let request = Request::get(format!("{path}?{}", query(&client_id, &[])));
        let (status, headers, _) = ring(&router, request.body(Body::empty()).unwrap()).await;
        assert_eq!(status, 200, "{path}");
        assert_eq!(headers["cache-control"], "no-store, private");
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert_eq!(headers["x-frame-options"], "DENY");
        assert_eq!(headers["referrer-policy"], "no-referrer");
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(
            policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'")
        );
        assert!(!policy.contains("unsafe") && !headers.contains_key("access-control-allow-origin"));
    }
    let html = include_str!("assets/page.html");
    assert!(!html.contains("onclick") && html.matches("<script").count() == 1);

    let sign_in = json!({ "query": query(&client_id, &[]), "user": "nurse", "password": "nurse" });
    for path in ["/authorize/app", "/authorize/sign_in"] {
        for header in [("x-other", "1"), ("sec-fetch-site", "cross-site")] {
            let mut request = Request::post(path).header(header.0, header.1);
            if header.0 == "sec-fetch-site" {
                request = request.header("x-wardstone-page", "1");
            }
            let request = request.body(Body::from(sign_in.to_string())).unwrap();
            assert_eq!(ring(&router, request).await.0, 403, "{path} {header:?}");
        }
        let request = Request::get(path).body(Body::empty()).unwrap();
        assert_eq!(ring(&router, request).await.0, 405, "{path}");
    }
    let request = Request::get("/").body(Body::empty()).unwrap();
    assert_eq!(ring(&router, request).await.0, 404);
}

#[tokio::test]
async fn the_page_says_what_is_wrong() {
    let desk = Desk::with(house(true)).await;
    desk.sign_up("nurse").await;
    let client_id = register(&desk).await;
    let router = page(&desk, None);
    for (query, has_way_back) in [
        (query("unknown", &[]), false),
        (query(&client_id, &[("redirect_uri", "https://evil.example/")]), false),
        (query(&client_id, &[("code_challenge_method", "plain")]), true),
        (query(&client_id, &[("scope", "openid")]), true),
    ] {
        let (status, answer) = ask(&router, "/authorize/app", query.clone()).await;
        assert_eq!((status, answer["back"].is_string()), (400, has_way_back), "{answer}");
        assert!(answer["error"].as_str().unwrap().ends_with('.'));
        let body = json!({ "query": query, "user": "nurse", "password": "nurse" }).to_string();
        let (status, again) = ask(&router, "/authorize/sign_in", body).await;
        assert_eq!((status, again), (400, answer), "a right password changes nothing");
    }
    let wrong = json!({ "query": query(&client_id, &[]), "user": "nurse", "password": "guess" });
    let (status, answer) = ask(&router, "/authorize/sign_in", wrong.to_string()).await;
    assert_eq!((status, &answer["errcode"]), (403, &json!("M_FORBIDDEN")));
    for body in ["", "{", "[]", "{\"query\":7}"] {
        let (status, answer) = ask(&router, "/authorize/sign_in", body.to_owned()).await;
        assert_eq!(status, 400, "{body}: {answer}");
    }
    let long = "x".repeat(40_000);
    assert_eq!(ask(&router, "/authorize/app", long).await.0, 413);
}

#[tokio::test]
async fn where_passwords_belong_on_the_page_login_refuses_them_and_says_so() {
    let desk = Desk::with(house(false)).await;
    desk.sign_up("nurse").await;
    let flows = desk.get("/v3/login", "").await.ok();
    assert_eq!(flows["flows"], json!([{ "type": "m.login.token", "get_login_token": true }]));
    let login = crate::scenario::login_body("nurse", json!({}));
    let refused = desk.post("/v3/login", "", login).await;
    assert_eq!(refused.error(), (400, "M_UNKNOWN"));
    assert!(refused.text("error").contains("on its own page"), "{refused:?}");

    // The password still proves who asks, where the page has opened the session.
    let client_id = register(&desk).await;
    let tokens = redeem(&desk, &client_id, &code(&desk, &client_id, None).await).await;
    let access = tokens.text("access_token");
    let path = "/v3/delete_devices";
    let asked = desk.post(path, &access, json!({ "devices": ["PHONE"] })).await;
    let auth = crate::scenario::own_password("nurse", &asked.text("session"));
    desk.post(path, &access, json!({ "devices": ["PHONE"], "auth": auth })).await.ok();
}

/// What listeners without OAuth 2.0 turn away, those with it do not serve to fools either.
#[tokio::test]
async fn nonsense_is_answered_at_every_endpoint() {
    let desk = Desk::with(house(true)).await;
    let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
    for path in ["/register", "/token", "/revoke"] {
        for body in ["", "{", "null", "[]", "a", "&&==&&", "%zz=%ff", "token=%00", deep.as_str()] {
            let answer =
                desk.call_raw("POST", &format!("{OAUTH}{path}"), "", body.to_owned()).await;
            assert!(answer.status < 500 && !answer.json.is_null(), "{path} {body:.20}: {answer:?}");
        }
        assert_eq!(desk.get(&format!("{OAUTH}{path}"), "").await.error(), (405, "M_UNRECOGNIZED"));
        let long = "x".repeat(100_000);
        let answer = desk.call_raw("POST", &format!("{OAUTH}{path}"), "", long).await;
        assert_eq!(answer.error(), (413, "M_TOO_LARGE"), "{path}");
    }
}
