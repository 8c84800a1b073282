//! Signing up, in, and asking who one is.

use appliance_model::ruma::UserId;
use appliance_model::ruma::api::client::account::{register, whoami};
use appliance_model::ruma::api::client::session::{get_login_types, login};
use appliance_model::ruma::api::client::uiaa::UserIdentifier;
use appliance_model::{Error, Kind};
use appliance_services::Registration;
use appliance_services::accounts::{NewAccount, NewSession};

use crate::route::{Routes, Visit};

pub(crate) fn add(routes: &mut Routes) {
    routes.serve(get_login_types);
    routes.serve(login);
    routes.serve(register);
    routes.serve(whoami);
}

async fn get_login_types(
    _: Visit<get_login_types::v3::Request>,
) -> Result<get_login_types::v3::Response, Error> {
    let password = get_login_types::v3::PasswordLoginType::new();
    let flows = vec![get_login_types::v3::LoginType::Password(password)];
    Ok(get_login_types::v3::Response::new(flows))
}

async fn login(visit: Visit<login::v3::Request>) -> Result<login::v3::Response, Error> {
    let login::v3::LoginInfo::Password(info) = visit.request.login_info else {
        return Err(Error::new(
            Kind::InvalidParam,
            "This server signs in with `m.login.password`.",
        ));
    };
    let services = &visit.services;
    let user = match info.identifier {
        Some(UserIdentifier::Matrix(matrix)) => matrix.user,
        _ => return Err(Error::invalid_param("Sign in with a user name or a Matrix ID.")),
    };
    let user_id = UserId::parse_with_server_name(user, &services.house.server_name)
        .map_err(|_| Error::forbidden("The user name or the password is wrong."))?;
    let new = NewSession {
        device_id: visit.request.device_id,
        display_name: visit.request.initial_device_display_name,
    };
    let session = services.accounts.login(user_id, info.password, new).await?;
    Ok(login::v3::Response::new(session.user_id, session.access_token, session.device_id))
}

async fn register(visit: Visit<register::v3::Request>) -> Result<register::v3::Response, Error> {
    let services = &visit.services;
    if services.house.options.registration != Registration::Open {
        return Err(Error::forbidden("Accounts on this server are made by its administrator."));
    }
    let request = visit.request;
    let new = NewAccount {
        localpart: request.username,
        password: request.password,
        administrator: false,
    };
    let session = NewSession {
        device_id: request.device_id,
        display_name: request.initial_device_display_name,
    };
    let session = (!request.inhibit_login).then_some(session);
    let (user_id, session) = services.accounts.create_account(new, session).await?;
    let mut response = register::v3::Response::new(user_id);
    if let Some(session) = session {
        response.access_token = Some(session.access_token);
        response.device_id = Some(session.device_id);
    }
    Ok(response)
}

async fn whoami(visit: Visit<whoami::v3::Request>) -> Result<whoami::v3::Response, Error> {
    let caller = visit.caller()?;
    let mut response = whoami::v3::Response::new(caller.user_id.clone(), false);
    response.device_id = Some(caller.device_id.clone());
    Ok(response)
}
