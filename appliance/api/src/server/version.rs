//! `GET /_matrix/federation/v1/version`: what runs here.

use appliance_model::Error;
use appliance_model::ruma::api::federation::discovery::get_server_version;

use crate::route::{Routes, Visit};

pub(crate) fn add(routes: &mut Routes) {
    routes.serve(get_version);
}

async fn get_version(
    _: Visit<get_server_version::v1::Request>,
) -> Result<get_server_version::v1::Response, Error> {
    let mut server = get_server_version::v1::Server::new();
    server.name = Some("Wardstone".to_owned());
    server.version = Some(env!("CARGO_PKG_VERSION").to_owned());
    let mut response = get_server_version::v1::Response::new();
    response.server = Some(server);
    Ok(response)
}
