//! What this server speaks.

use appliance_model::Error;
use appliance_model::ruma::api::client::discovery::get_supported_versions as versions;

use crate::route::{Routes, Visit};

pub(crate) fn add(routes: &mut Routes) {
    routes.serve(get_versions);
}

/// `GET /versions`: every version whose required endpoints exist. Clients look for literal old ones
/// and refuse the server without them.
async fn get_versions(_: Visit<versions::Request>) -> Result<versions::Response, Error> {
    let versions = (1..=19).map(|minor| format!("v1.{minor}")).collect();
    Ok(versions::Response::new(versions))
}
