//! Messages between devices.

use appliance_model::Error;
use appliance_model::ruma::api::client::to_device::send_event_to_device;

use crate::route::{Routes, Visit};

pub(crate) fn add(routes: &mut Routes) {
    routes.serve(send_event_to_device);
}

async fn send_event_to_device(
    visit: Visit<send_event_to_device::v3::Request>,
) -> Result<send_event_to_device::v3::Response, Error> {
    visit.services.keys.send_to_device(visit.caller()?, &visit.request).await?;
    Ok(send_event_to_device::v3::Response::new())
}
