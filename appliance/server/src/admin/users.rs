//! Orders about accounts.

use appliance_model::Error;
use appliance_model::ruma::UserId;
use appliance_services::accounts::NewAccount;
use serde_json::{Value, json};

use super::{Admin, Quota, Refusal};
use crate::settings::Secret;

impl Admin {
    pub(super) async fn create_user(
        &self,
        localpart: String,
        password: Secret,
        administrator: bool,
        by: &str,
    ) -> Result<Value, Refusal> {
        let new = NewAccount {
            localpart: Some(localpart),
            password: Some(password.reveal().to_owned()),
            administrator,
            ..NewAccount::default()
        };
        let user_id = self.house.services.accounts.open_account(new, by).await?;
        Ok(json!({ "user_id": user_id, "administrator": administrator }))
    }

    pub(super) async fn list_users(&self) -> Result<Value, Refusal> {
        let accounts = self.house.services.accounts.list_accounts().await?;
        let users = accounts.into_iter().map(|account| {
            json!({
                "user_id": account.user_id,
                "administrator": account.administrator,
                "deactivated": account.deactivated,
                "created_ms": account.created_ms,
                "displayname": account.displayname,
            })
        });
        Ok(json!({ "users": users.collect::<Vec<_>>() }))
    }

    pub(super) async fn deactivate_user(
        &self,
        user_id: &UserId,
        by: &str,
    ) -> Result<Value, Refusal> {
        self.house.services.accounts.close_account(user_id, by).await?;
        Ok(json!({ "user_id": user_id, "deactivated": true }))
    }

    pub(super) async fn reset_password(
        &self,
        user_id: &UserId,
        password: &Secret,
        keep_sessions: bool,
        by: &str,
    ) -> Result<Value, Refusal> {
        let password = password.reveal().to_owned();
        let accounts = &self.house.services.accounts;
        accounts.reset_password(user_id, password, keep_sessions, by).await?;
        Ok(json!({ "user_id": user_id, "sessions_ended": !keep_sessions }))
    }

    pub(super) async fn media_quota(
        &self,
        user_id: &UserId,
        quota: Option<Quota>,
        by: &str,
    ) -> Result<Value, Refusal> {
        let services = &self.house.services;
        let usage = match quota {
            Some(Quota::General) => services.media.set_quota(user_id, None, by).await?,
            Some(Quota::Bytes(bytes)) => services.media.set_quota(user_id, Some(bytes), by).await?,
            None => {
                let user = services.house.ledger.user(user_id).await?;
                let user = user.ok_or_else(|| Error::not_found("There is no such user here."))?;
                services.media.usage(user).await?
            }
        };
        Ok(json!({
            "user_id": user_id,
            "files": usage.files,
            "bytes": usage.bytes,
            "quota_bytes": usage.quota_bytes,
        }))
    }
}
