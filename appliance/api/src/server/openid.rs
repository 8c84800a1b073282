//! `GET /_matrix/federation/v1/openid/userinfo`: whose token this is. Open to everybody, because who
//! asks is not always a server; the token is the proof.

use appliance_model::ruma::api::federation::openid::get_openid_userinfo;
use appliance_model::{Error, Kind};
use axum::response::Response;
use serde_json::json;

use crate::json::answer;
use crate::route::{RawRequest, Routes, Visit};

pub(crate) fn add(routes: &mut Routes) {
    routes.serve_raw_as::<get_openid_userinfo::v1::Request, _, _>(userinfo);
}

async fn userinfo(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let token = visit.request.query("access_token");
    let missing = || Error::new(Kind::MissingToken, "`access_token` is missing.");
    let user_id = visit.services.accounts.openid_user(&token.ok_or_else(missing)?).await?;
    answer(&json!({ "sub": user_id }))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http::Request;
    use serde_json::json;

    use crate::town::Town;

    #[tokio::test]
    async fn a_token_says_whose_it_is() {
        let town = Town::of(&["a.example"]).await;
        let nurse = town.desk(0).sign_up("nurse").await;
        let path = "/v3/user/@nurse:a.example/openid/request_token";
        let token = town.desk(0).post(path, &nurse, json!({})).await.text("access_token");
        for (token, expected) in [(token.as_str(), 200), ("nobody's", 401), ("", 401)] {
            let path = format!("/_matrix/federation/v1/openid/userinfo?access_token={token}");
            let request = Request::get(path.replace('\'', "")).body(Body::empty()).unwrap();
            let (status, body) = town.ring("a.example", request).await;
            assert_eq!(status, expected, "{body}");
            if status == 200 {
                assert_eq!(body, json!({ "sub": "@nurse:a.example" }));
            }
        }
    }
}
