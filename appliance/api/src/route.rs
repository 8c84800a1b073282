//! The one adapter between HTTP and the use cases. Path, method and authentication come from the
//! Ruma type of the request, so no URL is typed twice.

use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;

use appliance_model::ruma::api::auth_scheme::{
    AccessToken, AccessTokenOptional, AppserviceTokenOptional, AuthScheme, NoAccessToken,
    NoAuthentication,
};
use appliance_model::ruma::api::federation::authentication::ServerSignatures;
use appliance_model::ruma::api::path_builder::PathBuilder;
use appliance_model::ruma::api::{
    IncomingRequest, IncomingRequestExt, OutgoingResponse, OutgoingResponseExt,
};
use appliance_model::ruma::{OwnedServerName, ServerName};
use appliance_model::{Caller, Error, Kind, Role, SessionClass};
use appliance_services::Services;
use appliance_services::accounts::Mask;
use appliance_services::peers::Load;
use axum::Router;
use axum::body::Body;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{RawPathParams, Request, State};
use axum::response::Response;
use axum::routing::{MethodFilter, MethodRouter, on};
use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tower::util::MapResponseLayer;

use crate::error::{refuse, respond_to_bad_request};
use crate::{ClientAddr, DoorClass, cors, json_body, peer, query, suspended};

/// Bodies of JSON endpoints. To-device and key uploads of large rooms stay below; media has a limit
/// of its own.
pub(crate) const JSON_BODY_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Who may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anyone.
    Open,
    /// Anyone; a token says more.
    Optional,
    /// Signed-in users.
    SignedIn,
    /// Other servers that are on the list and sign what they ask.
    Peer,
}

/// A route that this server serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The method.
    pub method: Method,
    /// The path, with its variables in braces.
    pub path: &'static str,
    /// Who may call.
    pub access: Access,
}

/// Whom an endpoint lets in.
#[derive(Clone, Copy, Debug)]
struct Gate {
    access: Access,
    /// Also those whom an administrator has suspended.
    is_open_to_suspended: bool,
    /// Also those who are locked out: they may sign out.
    is_open_to_locked: bool,
}

impl Gate {
    fn of(method: &Method, path: &str, access: Access) -> Self {
        Self {
            access,
            is_open_to_suspended: suspended::stays_open(method, path),
            is_open_to_locked: path.ends_with("/logout") || path.ends_with("/logout/all"),
        }
    }
}

/// How an authentication scheme of Ruma's becomes a caller.
pub(crate) trait Admission: AuthScheme {
    const ACCESS: Access;
}

impl Admission for AccessToken {
    const ACCESS: Access = Access::SignedIn;
}
impl Admission for AccessTokenOptional {
    const ACCESS: Access = Access::Optional;
}
impl Admission for AppserviceTokenOptional {
    const ACCESS: Access = Access::Open;
}
impl Admission for NoAccessToken {
    const ACCESS: Access = Access::Open;
}
impl Admission for NoAuthentication {
    const ACCESS: Access = Access::Open;
}
impl Admission for ServerSignatures {
    const ACCESS: Access = Access::Peer;
}

/// A request that has come through the door.
pub(crate) struct Visit<R> {
    pub services: Arc<Services>,
    /// Who asks, if a token was shown.
    pub visitor: Option<Caller>,
    /// Which server asks, where servers ask.
    pub origin: Option<OwnedServerName>,
    /// Where from.
    pub address: Option<ClientAddr>,
    /// The class of sessions that begin here, if the listener vouches for one.
    pub door: Option<SessionClass>,
    /// The request's headers.
    pub headers: HeaderMap,
    /// The whole address, with its query.
    pub uri: http::Uri,
    pub request: R,
}

impl<R> Visit<R> {
    /// Who asks, on endpoints for signed-in users.
    pub fn caller(&self) -> Result<&Caller, Error> {
        self.visitor.as_ref().ok_or_else(missing_token)
    }

    /// Which server asks, on endpoints for servers.
    pub fn origin(&self) -> Result<&ServerName, Error> {
        let missing = || Error::new(Kind::Unauthorized, "Requests of servers are signed.");
        self.origin.as_deref().ok_or_else(missing)
    }

    /// Where from.
    pub fn address(&self) -> Option<IpAddr> {
        self.address.map(|address| address.0)
    }
}

/// Collects routes.
pub(crate) struct Routes {
    services: Arc<Services>,
    router: Router<Arc<Services>>,
    list: Vec<Route>,
}

impl Routes {
    pub fn new(services: Arc<Services>) -> Self {
        Self { services, router: Router::new(), list: Vec::new() }
    }

    /// Whether apps can send people somewhere to sign in.
    pub fn has_oauth(&self) -> bool {
        self.services.house.options.oauth.is_some()
    }

    /// Serves the endpoint of a Ruma request type, on all its stable paths.
    pub fn serve<R, F, Answer>(&mut self, handler: F)
    where
        R: IncomingRequest + Send + 'static,
        R::Authentication: Admission,
        R::PathBuilder: StablePaths,
        R::OutgoingResponse: Send,
        F: Fn(Visit<R>) -> Answer + Clone + Send + Sync + 'static,
        Answer: Future<Output = Result<R::OutgoingResponse, Error>> + Send + 'static,
    {
        for path in R::PATH_BUILDER.served_paths() {
            self.serve_at::<R, _, _>(path, handler.clone());
        }
    }

    /// The same on a path that Ruma does not list.
    pub fn serve_at<R, F, Answer>(&mut self, path: &'static str, handler: F)
    where
        R: IncomingRequest + Send + 'static,
        R::Authentication: Admission,
        R::OutgoingResponse: Send,
        F: Fn(Visit<R>) -> Answer + Clone + Send + Sync + 'static,
        Answer: Future<Output = Result<R::OutgoingResponse, Error>> + Send + 'static,
    {
        let gate = Gate::of(&R::METHOD, path, R::Authentication::ACCESS);
        let endpoint =
            move |State(services): State<Arc<Services>>, params: PathParams, request: Request| {
                let handler = handler.clone();
                async move {
                    let asked = (gate, params, request);
                    let answer = answer::<R, F, Answer>(services, asked, handler).await;
                    Ok::<_, Infallible>(answer.unwrap_or_else(|error| refuse(&error)))
                }
            };
        self.route(R::METHOD, path, R::Authentication::ACCESS, |filter| on(filter, endpoint));
    }

    /// Serves an endpoint of a Ruma request type whose answer is JSON that is written already: lists
    /// of events, cut out of the store.
    pub fn serve_json<R, F, Answer>(&mut self, handler: F)
    where
        R: IncomingRequest + Send + 'static,
        R::Authentication: Admission,
        R::PathBuilder: StablePaths,
        F: Fn(Visit<R>) -> Answer + Clone + Send + Sync + 'static,
        Answer: Future<Output = Result<String, Error>> + Send + 'static,
    {
        for path in R::PATH_BUILDER.served_paths() {
            self.serve_json_at::<R, _, _>(path, handler.clone());
        }
    }

    /// The same on a path that Ruma does not list.
    pub fn serve_json_at<R, F, Answer>(&mut self, path: &'static str, handler: F)
    where
        R: IncomingRequest + Send + 'static,
        R::Authentication: Admission,
        F: Fn(Visit<R>) -> Answer + Clone + Send + Sync + 'static,
        Answer: Future<Output = Result<String, Error>> + Send + 'static,
    {
        let gate = Gate::of(&R::METHOD, path, R::Authentication::ACCESS);
        let endpoint =
            move |State(services): State<Arc<Services>>, params: PathParams, request: Request| {
                let handler = handler.clone();
                async move {
                    let answer = async {
                        let asked = (gate, params, request);
                        let (visit, _load) = read_visit::<R>(services, asked).await?;
                        Ok(json_response(StatusCode::OK, handler(visit).await?))
                    };
                    Ok::<_, Infallible>(answer.await.unwrap_or_else(|error| refuse(&error)))
                }
            };
        self.route(R::METHOD, path, R::Authentication::ACCESS, |filter| on(filter, endpoint));
    }

    /// Serves an endpoint that needs more than JSON in, JSON out: media, long polls.
    pub fn serve_raw<F, Answer>(
        &mut self,
        method: Method,
        path: &'static str,
        access: Access,
        handler: F,
    ) where
        F: Fn(Visit<RawRequest>) -> Answer + Clone + Send + Sync + 'static,
        Answer: Future<Output = Result<Response, Error>> + Send + 'static,
    {
        let gate = Gate::of(&method, path, access);
        let endpoint =
            move |State(services): State<Arc<Services>>, params: PathParams, request: Request| {
                let handler = handler.clone();
                async move {
                    let answer = answer_raw(services, (gate, params, request), handler).await;
                    Ok::<_, Infallible>(answer.unwrap_or_else(|error| refuse(&error)))
                }
            };
        self.route(method, path, access, |filter| on(filter, endpoint));
    }

    /// Serves the endpoint of a Ruma request type, on all its stable paths, but leaves body and
    /// answer to the handler.
    pub fn serve_raw_as<R, F, Answer>(&mut self, handler: F)
    where
        R: IncomingRequest,
        R::Authentication: Admission,
        R::PathBuilder: StablePaths,
        F: Fn(Visit<RawRequest>) -> Answer + Clone + Send + Sync + 'static,
        Answer: Future<Output = Result<Response, Error>> + Send + 'static,
    {
        for path in R::PATH_BUILDER.served_paths() {
            self.serve_raw(R::METHOD, path, R::Authentication::ACCESS, handler.clone());
        }
    }

    fn route(
        &mut self,
        method: Method,
        path: &'static str,
        access: Access,
        endpoint: impl FnOnce(MethodFilter) -> MethodRouter<Arc<Services>, Infallible>,
    ) {
        let filter = MethodFilter::try_from(method.clone()).expect("Matrix uses plain methods");
        let router = std::mem::take(&mut self.router);
        self.router = router.route(path, endpoint(filter));
        self.list.push(Route { method, path, access });
    }

    /// The router with everything around it: unknown paths, wrong methods, CORS.
    pub fn finish(self) -> (Router, Vec<Route>) {
        // "Servers should … 404 M_UNRECOGNIZED … unknown endpoint; 405 … known endpoint with an
        // unsupported method" (client-server, common error codes).
        let unknown = async |method: Method| {
            let error = Error::new(Kind::Unrecognized, "This server has no such endpoint.");
            preflight_or(&method, &error)
        };
        let wrong_method = async |method: Method| {
            let error = Error::new(Kind::WrongMethod, "This endpoint does not take that method.");
            preflight_or(&method, &error)
        };
        let router = self
            .router
            .fallback(unknown)
            .method_not_allowed_fallback(wrong_method)
            .layer(MapResponseLayer::new(cors::allow))
            .with_state(self.services);
        (router, self.list)
    }
}

/// "All endpoints in this specification support the OPTIONS method, however the server MUST NOT perform
/// any logic defined for the endpoints": browsers ask so before they send what another origin's page
/// wants to. No route takes that method, so all of these end up here.
fn preflight_or(method: &Method, error: &Error) -> Response {
    if method == Method::OPTIONS { Response::default() } else { refuse(error) }
}

/// The paths of an endpoint that released clients use.
pub(crate) trait StablePaths: PathBuilder {
    fn served_paths(&self) -> Vec<&'static str>;
}

impl StablePaths for appliance_model::ruma::api::path_builder::VersionHistory {
    fn served_paths(&self) -> Vec<&'static str> {
        self.stable_paths().map(|(_, path)| path).collect()
    }
}

impl StablePaths for appliance_model::ruma::api::path_builder::SinglePath {
    fn served_paths(&self) -> Vec<&'static str> {
        self.all_paths().collect()
    }
}

/// A path whose variables, decoded, may be no UTF-8.
type PathParams = Result<RawPathParams, RawPathParamsRejection>;

/// What arrived, and whom its endpoint lets in.
type Asked = (Gate, PathParams, Request);

fn bad_path(_: RawPathParamsRejection) -> Error {
    Error::invalid_param("A name in the path is no UTF-8.")
}

/// A request whose body is still to be read.
pub(crate) struct RawRequest {
    /// The path's variables, decoded, in order.
    pub params: Vec<String>,
    pub uri: http::Uri,
    pub body: Body,
}

impl RawRequest {
    /// A variable of the path.
    pub fn param(&self, index: usize) -> Result<&str, Error> {
        path_param(&self.params, index)
    }

    /// A parameter of the query.
    pub fn query(&self, name: &str) -> Option<String> {
        query::value(&self.uri, name)
    }

    /// Every value of a query parameter that may be said more than once.
    pub fn queries(&self, name: &str) -> Vec<String> {
        query::values(&self.uri, name).collect()
    }
}

pub(crate) fn path_param(params: &[String], index: usize) -> Result<&str, Error> {
    let missing = || Error::internal("a route without the variable that its handler reads");
    params.get(index).map(String::as_str).ok_or_else(missing)
}

async fn answer<R, F, Answer>(
    services: Arc<Services>,
    asked: Asked,
    handler: F,
) -> Result<Response, Error>
where
    R: IncomingRequest,
    R::Authentication: Admission,
    F: Fn(Visit<R>) -> Answer,
    Answer: Future<Output = Result<R::OutgoingResponse, Error>>,
{
    let (visit, _load) = read_visit::<R>(services, asked).await?;
    ruma_response(handler(visit).await?)
}

/// Who asks for what, and what of it is in memory until it is answered.
async fn read_visit<R>(
    services: Arc<Services>,
    (gate, params, request): Asked,
) -> Result<(Visit<R>, Option<Load>), Error>
where
    R: IncomingRequest,
    R::Authentication: Admission,
{
    let (origin, request, load) = peer::admit(&services, gate.access, request).await?;
    let (parts, body) = request.into_parts();
    let visitor = admit(&services, &parts, gate).await?;
    let mut body = read_body(body, json_body_bytes_max(gate.access)).await?;
    // Clients leave the body out where all of it is optional. Ruma allows for that in most of its
    // types, not in those it parses by hand.
    if body.is_empty() && parts.method == Method::POST {
        body = bytes::Bytes::from_static(b"{}");
    }
    // A `GET` has no body to speak of; what a proxy adds is not read.
    if !body.is_empty() && parts.method != Method::GET {
        json_body::check(&body)?;
    }
    let params = params.map_err(bad_path)?;
    let params: Vec<&str> = params.iter().map(|(_, value)| value).collect();
    let address = parts.extensions.get::<ClientAddr>().copied();
    let door = parts.extensions.get::<DoorClass>().map(|door| door.0);
    let (headers, uri) = (parts.headers.clone(), parts.uri.clone());
    let incoming = http::Request::from_parts(parts, body.as_ref());
    let request = R::try_from_http_request(incoming, &params).map_err(respond_to_bad_request)?;
    let visit = Visit { services, visitor, origin, address, door, headers, uri, request };
    Ok((visit, load))
}

async fn answer_raw<F, Answer>(
    services: Arc<Services>,
    (gate, params, request): Asked,
    handler: F,
) -> Result<Response, Error>
where
    F: Fn(Visit<RawRequest>) -> Answer,
    Answer: Future<Output = Result<Response, Error>>,
{
    let (origin, request, _load) = peer::admit(&services, gate.access, request).await?;
    let (parts, body) = request.into_parts();
    let visitor = admit(&services, &parts, gate).await?;
    let address = parts.extensions.get::<ClientAddr>().copied();
    let door = parts.extensions.get::<DoorClass>().map(|door| door.0);
    let params = params.map_err(bad_path)?;
    let params = params.iter().map(|(_, value)| value.to_owned()).collect();
    let uri = parts.uri.clone();
    let request = RawRequest { params, uri: parts.uri, body };
    let headers = parts.headers;
    handler(Visit { services, visitor, origin, address, door, headers, uri, request }).await
}

fn json_body_bytes_max(access: Access) -> usize {
    if access == Access::Peer { peer::BODY_BYTES_MAX } else { JSON_BODY_BYTES_MAX }
}

/// Reads a body of at most `bytes_max` bytes.
pub(crate) async fn read_body(body: Body, bytes_max: usize) -> Result<bytes::Bytes, Error> {
    match Limited::new(body, bytes_max).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(Error::too_large(format!("The request is larger than {bytes_max} bytes.")))
        }
        Err(_) => Err(Error::new(Kind::NotJson, "The request's body did not arrive whole.")),
    }
}

async fn admit(
    services: &Services,
    request: &http::request::Parts,
    gate: Gate,
) -> Result<Option<Caller>, Error> {
    if matches!(gate.access, Access::Open | Access::Peer) {
        return Ok(None);
    }
    let address = request.extensions.get::<ClientAddr>().map(|address| address.0);
    let caller = match (token(&request.headers, &request.uri), gate.access) {
        (Some(token), _) => {
            // The query of anybody else is not looked through for it.
            let wears_mask = services.accounts.may_wear_mask(&token);
            let mask = if wears_mask { mask(&request.uri) } else { Mask::default() };
            if gate.is_open_to_locked {
                services.accounts.admit_to_sign_out(&token, mask, address).await?
            } else {
                services.accounts.admit_masked(&token, mask, address).await?
            }
        }
        (None, Access::Optional) => return Ok(None),
        (None, _) => return Err(missing_token()),
    };
    if caller.role == Role::Suspended && !gate.is_open_to_suspended {
        let why = "An administrator of this server has suspended this account: it can read and \
                   leave, and say nothing.";
        return Err(Error::new(Kind::UserSuspended, why));
    }
    Ok(Some(caller))
}

/// As whom an application service speaks. Of `device_id` the released spelling goes first.
fn mask(uri: &http::Uri) -> Mask {
    let device_id = query::value(uri, "device_id")
        .or_else(|| query::value(uri, "org.matrix.msc3202.device_id"));
    Mask { user_id: query::value(uri, "user_id"), device_id }
}

/// From the `Authorization` header, or from the query as clients of before v1.11 send it.
pub(crate) fn token(headers: &HeaderMap, uri: &http::Uri) -> Option<String> {
    if let Some(value) = headers.get(http::header::AUTHORIZATION) {
        let value = value.to_str().ok()?;
        let (scheme, token) = value.split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned());
    }
    query::value(uri, "access_token")
}

pub(crate) fn missing_token() -> Error {
    Error::new(Kind::MissingToken, "This endpoint needs an access token. Sign in first.")
}

/// An answer of one of Ruma's types.
pub(crate) fn ruma_response(response: impl OutgoingResponse) -> Result<Response, Error> {
    let response = response.try_into_http_response::<Vec<u8>>().map_err(Error::internal)?;
    Ok(response.map(Body::from))
}

/// An answer that is JSON already.
pub(crate) fn json_response(status: StatusCode, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, json);
    response
}
