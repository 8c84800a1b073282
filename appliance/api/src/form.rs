//! Requests whose body we read ourselves: those under user-interactive authentication, and those
//! where released clients send more, less or other than Ruma's types accept.

use std::future::Future;

use appliance_model::ruma::api::IncomingRequest;
use appliance_model::{Error, Kind};
use appliance_services::accounts::{Attempt, Proof};
use axum::response::Response;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::query;
use crate::route::{
    Access, Admission, JSON_BODY_BYTES_MAX, RawRequest, Routes, StablePaths, Visit, missing_token,
    path_param, read_body, token,
};

/// A request with a JSON body of our own type.
pub(crate) struct Form<T> {
    /// The path's variables, decoded, in order.
    pub params: Vec<String>,
    pub uri: http::Uri,
    pub body: T,
    auth: Option<Attempt>,
    operation: [u8; 16],
}

impl<T> Form<T> {
    /// A variable of the path.
    pub fn param(&self, index: usize) -> Result<&str, Error> {
        path_param(&self.params, index)
    }

    /// A parameter of the query.
    pub fn query(&self, name: &str) -> Option<String> {
        query::value(&self.uri, name)
    }
}

impl<T> Visit<Form<T>> {
    /// The token that was shown, on endpoints that do not need one.
    pub fn token(&self) -> Result<String, Error> {
        token(&self.headers, &self.request.uri).ok_or_else(missing_token)
    }

    /// What the client shows, for what it asks: to be given to the use case that requires it.
    pub fn proof(&self) -> Proof {
        Proof {
            attempt: self.request.auth.clone(),
            operation: self.request.operation,
            address: self.address(),
        }
    }
}

impl Routes {
    /// Serves the endpoint of a Ruma request type with a body type of our own.
    pub fn serve_form<R, T, F, Answer>(&mut self, handler: F)
    where
        R: IncomingRequest,
        R::Authentication: Admission,
        R::PathBuilder: StablePaths,
        T: DeserializeOwned + Send + 'static,
        F: Fn(Visit<Form<T>>) -> Answer + Clone + Send + Sync + 'static,
        Answer: Future<Output = Result<Response, Error>> + Send + 'static,
    {
        for path in R::PATH_BUILDER.served_paths() {
            self.serve_form_at(R::METHOD, path, R::Authentication::ACCESS, handler.clone());
        }
    }

    /// The same on a path that Ruma does not list.
    pub fn serve_form_at<T, F, Answer>(
        &mut self,
        method: http::Method,
        path: &'static str,
        access: Access,
        handler: F,
    ) where
        T: DeserializeOwned + Send + 'static,
        F: Fn(Visit<Form<T>>) -> Answer + Clone + Send + Sync + 'static,
        Answer: Future<Output = Result<Response, Error>> + Send + 'static,
    {
        let of_form = method.clone();
        self.serve_raw(method, path, access, move |visit| {
            let (handler, method) = (handler.clone(), of_form.clone());
            async move { handler(read(visit, &method).await?).await }
        });
    }
}

async fn read<T: DeserializeOwned>(
    visit: Visit<RawRequest>,
    method: &http::Method,
) -> Result<Visit<Form<T>>, Error> {
    let Visit { services, visitor, origin, address, door, headers, uri, request } = visit;
    let body = read_body(request.body, JSON_BODY_BYTES_MAX).await?;
    let mut body = object(&body)?;
    let auth = match body.remove("auth") {
        None | Some(Value::Null) => None,
        Some(auth) => Some(Attempt::from_json(auth)?),
    };
    let asked = Value::Object(body);
    let path = request.uri.path();
    let operation = services.accounts.operation(&[
        method.as_str().as_bytes(),
        path.as_bytes(),
        asked.to_string().as_bytes(),
    ]);
    let body = serde_json::from_value(asked)
        .map_err(|error| Error::bad_json(format!("The body has not the form it needs: {error}")))?;
    let request = Form { params: request.params, uri: request.uri, body, auth, operation };
    Ok(Visit { services, visitor, origin, address, door, headers, uri, request })
}

/// The body as a JSON object; an empty one if there is none, as some clients leave it out.
fn object(body: &[u8]) -> Result<Map<String, Value>, Error> {
    if body.is_empty() {
        return Ok(Map::new());
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Error::bad_json("The body must be a JSON object.")),
        Err(error) => Err(Error::new(Kind::NotJson, format!("The body is not JSON: {error}"))),
    }
}
