//! Apps that register, ask, redeem, renew and revoke, and all that is refused to them.

#![cfg(test)]

use appliance_ledger::keyspaces::OAUTH_CLIENTS;
use appliance_model::{Kind, SessionClass};
use appliance_rules::Permit;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::*;
use crate::accounts::{Accounts, Login, NewAccount, NewSession};
use crate::scenario::{Ward, options};
use crate::{Options, RateLimits};

const VERIFIER: &str = "a-verifier-of-forty-three-characters-or-more";
const BACK: &str = "https://app.example/back";

fn oauth_options(app_hosts: &[&str]) -> OAuthOptions {
    OAuthOptions {
        sign_in_url: "https://login.hospital.example".to_owned(),
        api_url: "https://matrix.hospital.example".to_owned(),
        app_hosts: app_hosts.iter().map(|&host| host.to_owned()).collect(),
    }
}

async fn ward_with(more: Options) -> Ward {
    let ward = Ward::with_options(more).await;
    for name in ["nurse", "doctor"] {
        let new = NewAccount {
            localpart: Some(name.to_owned()),
            password: Some(name.to_owned()),
            ..NewAccount::default()
        };
        ward.services.accounts.create_account(new, None).await.unwrap();
    }
    ward
}

async fn ward() -> Ward {
    ward_with(Options { oauth: Some(oauth_options(&[])), ..options() }).await
}

/// What an app of this host says of itself.
fn stated(host: &str, more: Value) -> Vec<u8> {
    let mut stated = json!({
        "client_name": "An app",
        "client_uri": format!("https://{host}/"),
        "redirect_uris": [format!("https://{host}/back")],
        "response_types": ["code"],
        "grant_types": ["authorization_code", "refresh_token"],
        "token_endpoint_auth_method": "none",
    });
    stated.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    stated.to_string().into_bytes()
}

async fn register(ward: &Ward, host: &str) -> String {
    let metadata = ClientMetadata::read(&stated(host, json!({}))).unwrap();
    ward.services.accounts.register_client(metadata, None).await.unwrap()
}

fn query(client_id: &str, more: &[(&str, &str)]) -> String {
    let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, VERIFIER.as_bytes()));
    let mut said = vec![
        ("client_id", client_id),
        ("redirect_uri", BACK),
        ("response_type", "code"),
        ("code_challenge", &challenge),
        ("code_challenge_method", "S256"),
        ("scope", "urn:matrix:client:api:* urn:matrix:client:device:PHONE"),
        ("state", "s t"),
    ];
    for (name, value) in more {
        said.retain(|(other, _)| other != name);
        said.push((name, value));
    }
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(said).finish()
}

async fn ask(ward: &Ward, query: &str) -> Result<Asked, Refused> {
    let said = Said::read(query)?;
    ward.services.accounts.authorization(&said).await.unwrap()
}

/// The code that comes with an address.
fn code_in(back: &str) -> String {
    let url = url::Url::parse(back).unwrap();
    url.query_pairs().find(|(name, _)| name == "code").unwrap().1.into_owned()
}

async fn code(ward: &Ward, client_id: &str, class: Option<SessionClass>) -> String {
    let asked = ask(ward, &query(client_id, &[])).await.unwrap();
    let login = ("nurse", "nurse".to_owned());
    code_in(&ward.services.accounts.grant(asked, login, class, None).await.unwrap())
}

fn brought<'a>(code: &'a str, client_id: &'a str) -> Redemption<'a> {
    Redemption {
        code,
        client_id,
        redirect_uri: BACK,
        verifier: VERIFIER,
        class: None,
        address: None,
    }
}

fn fault<T>(answer: Result<T, OAuthError>) -> Fault {
    match answer.err().expect("an error") {
        OAuthError::Wrong(fault, _) => fault,
        OAuthError::House(error) => panic!("{error:?}"),
    }
}

async fn sign_in(ward: &Ward, client_id: &str) -> TokenGrant {
    let code = code(ward, client_id, None).await;
    ward.services.accounts.redeem(brought(&code, client_id)).await.unwrap()
}

async fn class_of(accounts: &Accounts, grant: &TokenGrant) -> SessionClass {
    accounts.authenticate(&grant.session.access_token).await.unwrap().class
}

#[tokio::test]
async fn an_app_signs_its_user_in_and_learns_no_password() {
    let ward = ward().await;
    let accounts = &ward.services.accounts;
    let app = register(&ward, "app.example").await;
    let asked =
        ask(&ward, &query(&app, &[("login_hint", "mxid:@nurse:hospital.example")])).await.unwrap();
    assert_eq!(asked.app.name.as_deref(), Some("An app"));
    assert_eq!(asked.login_hint.as_deref(), Some("@nurse:hospital.example"));
    assert!(asked.declined().starts_with("https://app.example/back?error=access_denied&"));
    assert!(asked.declined().ends_with("&state=s+t"));

    let granted = sign_in(&ward, &app).await;
    let session = &granted.session;
    assert_eq!(session.user_id, "@nurse:hospital.example");
    assert_eq!(session.device_id, "PHONE");
    assert_eq!(session.expires_in_ms, Some(300_000));
    assert_eq!(
        granted.scope.as_deref(),
        Some("urn:matrix:client:api:* urn:matrix:client:device:PHONE")
    );
    let caller = accounts.authenticate(&session.access_token).await.unwrap();
    let devices = accounts.devices(&caller).await.unwrap();
    assert_eq!(devices[0].display_name.as_deref(), Some("An app"));
    let facts = ward.audit().await;
    assert!(facts.iter().any(|fact| fact.starts_with("app.registered")), "{facts:?}");
    assert!(facts.contains(&"session.opened @nurse:hospital.example".to_owned()), "{facts:?}");
    let objects = ward.audit_objects().await;
    let with_app = "@nurse:hospital.example with https://app.example/";
    assert!(objects.iter().any(|object| object.contains(with_app)), "{objects:?}");
}

/// The certificate is shown by the browser on the page; the app brings the code by another door.
#[tokio::test]
async fn the_browser_s_door_decides_the_class_of_the_session() {
    let ward = ward().await;
    let accounts = &ward.services.accounts;
    let app = register(&ward, "app.example").await;
    for (page, door, class) in [
        (None, None, SessionClass::Unmanaged),
        (Some(SessionClass::Managed), None, SessionClass::Managed),
        (None, Some(SessionClass::Managed), SessionClass::Managed),
        (None, None, SessionClass::Unmanaged),
    ] {
        let code = code(&ward, &app, page).await;
        let brought = Redemption { class: door, ..brought(&code, &app) };
        let granted = accounts.redeem(brought).await.unwrap();
        assert_eq!(class_of(accounts, &granted).await, class, "{page:?} {door:?}");
    }
}

#[tokio::test]
async fn the_same_app_is_one_app_and_survives_a_power_cut() {
    let ward = ward().await;
    let first = register(&ward, "app.example").await;
    assert_eq!(register(&ward, "app.example").await, first);
    assert_ne!(register(&ward, "other.example").await, first);
    let ward = ward.power_cut_and_restart().await;
    sign_in(&ward, &first).await;
    let registered = ward.audit().await;
    let registered = registered.iter().filter(|fact| fact.starts_with("app.registered")).count();
    assert_eq!(registered, 2);
}

#[tokio::test]
async fn what_an_app_says_of_itself_keeps_the_rules() {
    let read = |more: Value| ClientMetadata::read(&stated("app.example", more));
    let answer =
        read(json!({ "logo_uri": "https://app.example/l.png", "contacts": ["x"] })).unwrap();
    let answer = Value::Object(answer.to_json());
    assert_eq!(
        answer,
        json!({
            "client_name": "An app",
            "client_uri": "https://app.example/",
            "redirect_uris": [BACK],
            "response_types": ["code"],
            "grant_types": ["authorization_code", "refresh_token"],
            "token_endpoint_auth_method": "none",
            "application_type": "web",
        })
    );
    let odd =
        ["urn:ietf:params:oauth:grant-type:device_code", "refresh_token", "authorization_code"];
    read(json!({ "grant_types": odd, "response_types": ["code", "token"] })).unwrap();
    let native = json!({
        "application_type": "native",
        "redirect_uris": ["example.app:/", "http://127.0.0.1/", "https://app.example/x"],
        "tos_uri": "https://www.app.example/tos",
    });
    read(native).unwrap();

    for more in [
        json!({ "client_uri": null }),
        json!({ "client_uri": "http://app.example/" }),
        json!({ "client_uri": "https://user@app.example/" }),
        json!({ "client_uri": 7 }),
        json!({ "client_name": "x".repeat(101) }),
        json!({ "client_name": "Element\u{202e}" }),
        json!({ "client_name": "two\nlines" }),
        json!({ "tos_uri": "https://other.example/" }),
        json!({ "policy_uri": "javascript:alert(1)" }),
        json!({ "application_type": "server" }),
        json!({ "token_endpoint_auth_method": "client_secret_basic" }),
        json!({ "token_endpoint_auth_method": null }),
        json!({ "grant_types": ["authorization_code"] }),
        json!({ "grant_types": null }),
        json!({ "grant_types": ["refresh_token"] }),
        json!({ "response_types": ["token"] }),
    ] {
        assert_eq!(fault(read(more.clone())), Fault::InvalidClientMetadata, "{more}");
    }
    let many: Vec<String> = (0..11).map(|n| format!("https://app.example/{n}")).collect();
    for uris in [json!([]), json!(many), json!(["https://other.example/"]), json!([BACK, "x:/"])] {
        let more = json!({ "redirect_uris": uris });
        assert_eq!(fault(read(more.clone())), Fault::InvalidRedirectUri, "{more}");
    }
}

#[tokio::test]
async fn only_the_apps_that_the_operator_named_may_register() {
    let oauth = Some(oauth_options(&["app.example"]));
    let ward = ward_with(Options { oauth, ..options() }).await;
    register(&ward, "app.example").await;
    for host in ["other.example", "sub.app.example", "app.example.evil.example"] {
        let metadata = ClientMetadata::read(&stated(host, json!({}))).unwrap();
        let refused = ward.services.accounts.register_client(metadata, None).await;
        assert_eq!(fault(refused), Fault::InvalidClientMetadata, "{host}");
    }
}

/// The operator names apps when others have registered already.
#[tokio::test]
async fn an_app_that_is_no_longer_named_is_as_good_as_unknown() {
    let oauth = Some(oauth_options(&["named.example"]));
    let ward = ward_with(Options { oauth, ..options() }).await;
    let ledger = &ward.services.house.ledger;
    let mut commit = ledger.begin(Permit::housekeeping());
    let row = |host: &str| ClientMetadata::read(&stated(host, json!({}))).unwrap().into_row(1);
    commit.put(&OAUTH_CLIENTS, &[1; 16], &row("app.example"));
    commit.put(&OAUTH_CLIENTS, &[2; 16], &row("named.example"));
    ledger.commit(commit).await.unwrap();
    assert_eq!(ask(&ward, &query(&client_id(&[1; 16]), &[])).await.unwrap_err().return_to, None);
    let back = [("redirect_uri", "https://named.example/back")];
    ask(&ward, &query(&client_id(&[2; 16]), &back)).await.unwrap();
}

#[tokio::test]
async fn strangers_cannot_register_without_end_and_known_apps_do_not_count() {
    let limits = Some(RateLimits::default());
    let more = Options { oauth: Some(oauth_options(&[])), rate_limits: limits, ..options() };
    let ward = ward_with(more).await;
    for app in 0..5 {
        register(&ward, &format!("app{app}.example")).await;
    }
    let metadata = |host: &str| ClientMetadata::read(&stated(host, json!({}))).unwrap();
    let accounts = &ward.services.accounts;
    let limited = accounts.register_client(metadata("more.example"), None).await.unwrap_err();
    let OAuthError::House(limited) = limited else { panic!("{limited:?}") };
    assert!(matches!(limited.kind, Kind::Limited { .. }));
    register(&ward, "app0.example").await;
}

#[tokio::test]
async fn apps_that_nobody_uses_are_forgotten() {
    let ward = ward().await;
    let accounts = &ward.services.accounts;
    let (used, unused) = (register(&ward, "app.example").await, register(&ward, "b.example").await);
    sign_in(&ward, &used).await;
    assert_eq!(accounts.forget_clients().await.unwrap(), 0);
    ward.clock.pass_ms(7 * 24 * 3_600_000);
    assert_eq!(accounts.forget_clients().await.unwrap(), 1);
    assert!(accounts.client(&unused).await.unwrap().is_none());
    sign_in(&ward, &used).await;
    ward.clock.pass_ms(400 * 24 * 3_600_000);
    assert_eq!(accounts.forget_clients().await.unwrap(), 1);
    assert!(ask(&ward, &query(&used, &[])).await.is_err());
    assert_eq!(register(&ward, "app.example").await, used, "its name is the same again");
}

/// Thousands of registrations by strangers: those that somebody signs in with stay.
#[tokio::test]
async fn when_too_many_are_known_the_oldest_unused_gives_way() {
    let ward = ward().await;
    let used = register(&ward, "app.example").await;
    sign_in(&ward, &used).await;
    let ledger = &ward.services.house.ledger;
    let mut commit = ledger.begin(Permit::housekeeping());
    for n in 0..1_999_u128 {
        let metadata = ClientMetadata::read(&stated("stranger.example", json!({}))).unwrap();
        let row = metadata.into_row(1_000 + u64::try_from(n).unwrap());
        commit.put(&OAUTH_CLIENTS, &(n + 1).to_be_bytes(), &row);
    }
    ledger.commit(commit).await.unwrap();
    let newest = register(&ward, "new.example").await;
    let accounts = &ward.services.accounts;
    assert!(accounts.client(&client_id(&1_u128.to_be_bytes())).await.unwrap().is_none());
    assert!(accounts.client(&client_id(&2_u128.to_be_bytes())).await.unwrap().is_some());
    for kept in [used, newest] {
        assert!(accounts.client(&kept).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn what_is_wrong_goes_to_the_app_only_where_the_app_is_at_home() {
    let ward = ward().await;
    let app = register(&ward, "app.example").await;
    let refused = async |more: &[(&str, &str)]| ask(&ward, &query(&app, more)).await.unwrap_err();
    for more in [
        [("client_id", "")],
        [("client_id", "00000000000000000000000000000000")],
        [("client_id", "../../etc")],
        [("redirect_uri", "")],
        [("redirect_uri", "https://app.example/back?x")],
        [("redirect_uri", "https://app.example/")],
        [("redirect_uri", "https://app.example:8443/back")],
        [("redirect_uri", "https://evil.example/back")],
        [("redirect_uri", "javascript:alert(1)")],
    ] {
        assert_eq!(refused(&more).await.return_to, None, "{more:?}");
    }
    for (more, error) in [
        ([("response_type", "token")], "unsupported_response_type"),
        ([("response_type", "")], "unsupported_response_type"),
        ([("response_mode", "form_post")], "invalid_request"),
        ([("code_challenge", "")], "invalid_request"),
        ([("code_challenge", "tooshort")], "invalid_request"),
        ([("code_challenge_method", "plain")], "invalid_request"),
        ([("code_challenge_method", "")], "invalid_request"),
        ([("scope", "")], "invalid_scope"),
        ([("scope", "openid")], "invalid_scope"),
    ] {
        let back = refused(&more).await.return_to.unwrap();
        let begin = format!("https://app.example/back?error={error}&error_description=");
        assert!(back.starts_with(&begin) && back.ends_with("&state=s+t"), "{more:?}: {back}");
    }
    let fragment = [("response_mode", "fragment"), ("scope", "openid")];
    assert!(
        refused(&fragment).await.return_to.unwrap().starts_with("https://app.example/back#error=")
    );
    let twice = format!("{}&client_id={app}", query(&app, &[]));
    assert_eq!(ask(&ward, &twice).await.unwrap_err().return_to, None);
    let long = query(&app, &[("state", &"x".repeat(9_000))]);
    assert_eq!(ask(&ward, &long).await.unwrap_err().return_to, None);
}

#[tokio::test]
async fn a_code_is_for_one_app_one_address_one_verifier_and_one_minute() {
    let ward = ward().await;
    let accounts = &ward.services.accounts;
    let app = register(&ward, "app.example").await;
    let other = register(&ward, "other.example").await;
    let longer = format!("{VERIFIER}x");
    let elsewhere = "https://app.example/";
    for (what, client_id, redirect_uri, verifier) in [
        ("another app", other.as_str(), BACK, VERIFIER),
        ("no app", "app", BACK, VERIFIER),
        ("another address", &app, elsewhere, VERIFIER),
        ("another verifier", &app, BACK, &longer),
        ("no verifier", &app, BACK, "short"),
    ] {
        let code = code(&ward, &app, None).await;
        let wrong = Redemption { client_id, redirect_uri, verifier, ..brought(&code, &app) };
        assert_eq!(fault(accounts.redeem(wrong).await), Fault::InvalidGrant, "{what}");
        let again = accounts.redeem(brought(&code, &app)).await;
        assert_eq!(fault(again), Fault::InvalidGrant, "{what}: one attempt");
    }
    let late = code(&ward, &app, None).await;
    ward.clock.pass_ms(60_000);
    assert_eq!(fault(accounts.redeem(brought(&late, &app)).await), Fault::InvalidGrant);
    assert_eq!(fault(accounts.redeem(brought("guess", &app)).await), Fault::InvalidGrant);
    let gone = code(&ward, &app, None).await;
    let ward = ward.power_cut_and_restart().await;
    let accounts = &ward.services.accounts;
    assert_eq!(
        fault(accounts.redeem(brought(&gone, &app)).await),
        Fault::InvalidGrant,
        "forgotten"
    );
}

#[tokio::test]
async fn a_code_used_twice_ends_the_session_that_it_opened_and_no_other() {
    let ward = ward().await;
    let accounts = &ward.services.accounts;
    let app = register(&ward, "app.example").await;
    let first = code(&ward, &app, None).await;
    let opened = accounts.redeem(brought(&first, &app)).await.unwrap();
    assert_eq!(fault(accounts.redeem(brought(&first, &app)).await), Fault::InvalidGrant);
    let over = accounts.authenticate(&opened.session.access_token).await.unwrap_err();
    assert_eq!(over.kind, Kind::UnknownToken { soft_logout: false });
    assert!(ward.audit().await.iter().any(|fact| fact.starts_with("session.code_used_twice")));

    // The user has signed in again meanwhile, on the same device: that is another session.
    let second = code(&ward, &app, None).await;
    accounts.redeem(brought(&second, &app)).await.unwrap();
    ward.clock.pass_ms(1_000);
    let newer = sign_in(&ward, &app).await;
    assert_eq!(fault(accounts.redeem(brought(&second, &app)).await), Fault::InvalidGrant);
    accounts.authenticate(&newer.session.access_token).await.unwrap();

    // Both at once: one of them may be a thief, and nobody can tell which.
    let both = code(&ward, &app, None).await;
    let (one, two) =
        tokio::join!(accounts.redeem(brought(&both, &app)), accounts.redeem(brought(&both, &app)));
    assert!(one.is_err() && two.is_err(), "{one:?} {two:?}");
}

#[tokio::test]
async fn only_its_own_app_renews_a_session_and_each_renewal_ends_what_was_before() {
    let ward = ward().await;
    let accounts = &ward.services.accounts;
    let app = register(&ward, "app.example").await;
    let other = register(&ward, "other.example").await;
    let first = sign_in(&ward, &app).await.session;
    let refresh = first.refresh_token.unwrap();
    for wrong in [other.as_str(), "", "x"] {
        let refused = accounts.refresh_for(wrong, &refresh, None).await;
        assert_eq!(fault(refused), Fault::InvalidGrant, "{wrong}");
    }
    accounts.refresh(&refresh, None).await.expect_err("not at the endpoint of other sessions");
    let lost = accounts.refresh_for(&app, &refresh, None).await.unwrap().session;
    let second = accounts.refresh_for(&app, &refresh, None).await.unwrap().session;
    assert_eq!((&second.device_id, second.expires_in_ms), (&first.device_id, Some(300_000)));
    accounts.authenticate(&lost.access_token).await.expect_err("replaced");
    accounts.authenticate(&second.access_token).await.unwrap();
    let used_up = accounts.refresh_for(&app, &refresh, None).await;
    assert_eq!(fault(used_up), Fault::InvalidGrant);
    let ward = ward.power_cut_and_restart().await;
    let accounts = &ward.services.accounts;
    accounts.refresh_for(&app, &second.refresh_token.unwrap(), None).await.unwrap();

    // A session without an app is renewed where it always was, and not here.
    let session = NewSession { refreshable: true, ..NewSession::default() };
    let (user, password) = ("doctor".to_owned(), "doctor".to_owned());
    let login = Login { user, password, session, address: None };
    let plain = accounts.login(login).await.unwrap().refresh_token.unwrap();
    assert_eq!(fault(accounts.refresh_for(&app, &plain, None).await), Fault::InvalidGrant);
    accounts.refresh(&plain, None).await.unwrap();
}

#[tokio::test]
async fn revoking_either_token_ends_session_and_device() {
    let ward = ward().await;
    let accounts = &ward.services.accounts;
    let app = register(&ward, "app.example").await;
    let other = register(&ward, "other.example").await;
    for is_refresh in [false, true] {
        for client_id in [Some(app.as_str()), None] {
            let session = sign_in(&ward, &app).await.session;
            let (access, refresh) = (session.access_token, session.refresh_token.unwrap());
            let token = if is_refresh { &refresh } else { &access };
            let refused = accounts.revoke(token, Some(&other), None).await;
            assert_eq!(fault(refused), Fault::InvalidClient);
            accounts.authenticate(&access).await.unwrap();
            accounts.revoke(token, client_id, None).await.unwrap();
            accounts.authenticate(&access).await.unwrap_err();
            assert_eq!(
                fault(accounts.refresh_for(&app, &refresh, None).await),
                Fault::InvalidGrant
            );
            accounts.revoke(token, client_id, None).await.expect("it is over already");
        }
    }
    accounts.revoke("guess", Some(&app), None).await.unwrap();
    let (user, _) = accounts.role_of(&crate::scenario::user_id("nurse")).await.unwrap();
    assert!(accounts.devices_of(user).await.unwrap().is_empty());
}

/// An app that is persuaded, or persuades, to name a device of another app does not get it.
#[tokio::test]
async fn a_device_of_another_app_is_not_taken_over() {
    let ward = ward().await;
    let accounts = &ward.services.accounts;
    let app = register(&ward, "app.example").await;
    let before = sign_in(&ward, &app).await;
    let again = sign_in(&ward, &app).await;
    accounts.authenticate(&before.session.access_token).await.expect_err("the same app came back");

    let other = register(&ward, "other.example").await;
    let back = [("redirect_uri", "https://other.example/back")];
    let asked = ask(&ward, &query(&other, &back)).await.unwrap();
    let login = ("nurse", "nurse".to_owned());
    let refused = accounts.grant(asked, login, None, None).await.unwrap_err();
    assert_eq!(refused.kind, Kind::Forbidden);
    accounts.authenticate(&again.session.access_token).await.unwrap();
}

#[tokio::test]
async fn passwords_are_guessed_no_faster_than_at_login_and_locks_hold() {
    let limits = Some(RateLimits::default());
    let more = Options { oauth: Some(oauth_options(&[])), rate_limits: limits, ..options() };
    let ward = ward_with(more).await;
    let accounts = &ward.services.accounts;
    let app = register(&ward, "app.example").await;
    let attempt = async |user: &str, password: &str| {
        let asked = ask(&ward, &query(&app, &[])).await.unwrap();
        accounts.grant(asked, (user, password.to_owned()), None, None).await
    };
    for user in ["nurse", "nobody", "@nurse:other.example"] {
        let refused = attempt(user, "guess").await.unwrap_err();
        assert_eq!(
            (refused.kind, &*refused.message),
            (Kind::Forbidden, "The user name or the password is wrong.")
        );
    }
    for _ in 0..4 {
        attempt("nurse", "guess").await.unwrap_err();
    }
    let limited = attempt("nurse", "nurse").await.unwrap_err();
    assert!(matches!(limited.kind, Kind::Limited { .. }), "{limited:?}");
    attempt("doctor", "doctor").await.unwrap();

    ward.clock.pass_ms(600_000);
    let code = code(&ward, &app, None).await;
    let nurse = crate::scenario::user_id("nurse");
    accounts.close_account(&nurse, "root").await.unwrap();
    let refused = accounts.redeem(brought(&code, &app)).await;
    assert_eq!(fault(refused), Fault::InvalidGrant, "closed between the page and the app");
}

#[tokio::test]
async fn a_house_without_a_sign_in_page_has_none_of_it() {
    let ward = ward_with(options()).await;
    let accounts = &ward.services.accounts;
    let metadata = ClientMetadata::read(&stated("app.example", json!({}))).unwrap();
    let OAuthError::House(none) = accounts.register_client(metadata, None).await.unwrap_err()
    else {
        panic!("an error of the house");
    };
    assert_eq!(none.kind, Kind::NotFound);
    let said = Said::read("client_id=x").unwrap();
    assert_eq!(accounts.authorization(&said).await.unwrap_err().kind, Kind::NotFound);
}
