//! `POST /user/{userId}/openid/request_token` ([spec]): a token with which a user shows a third
//! party, a call server for one, who they are. It opens nothing here.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#openid

use appliance_ledger::Direction;
use appliance_ledger::keyspaces::OPENID_TOKENS;
use appliance_ledger::rows::extras::OpenIdRow;
use appliance_model::ruma::{OwnedUserId, UserId};
use appliance_model::{Caller, Error, UserNid};
use appliance_rules::Permit;

use super::Accounts;

/// As long as it takes to join a call, with room for a slow one.
const LIVES_MS: u64 = 60 * 60 * 1_000;
const TOKEN_LENGTH: usize = 43;
/// Forgotten in one commit.
const FORGOTTEN_AT_ONCE_MAX: usize = 1_000;

/// What the user gets.
#[derive(Clone)]
pub struct OpenIdToken {
    /// The secret to show.
    pub access_token: String,
    /// How long it lives.
    pub expires_in_secs: u64,
}

impl Accounts {
    /// Makes a token that says who the caller is.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::Forbidden`] for somebody else;
    /// [`appliance_model::Kind::Limited`] for many in a short time.
    pub async fn openid_token(
        &self,
        caller: &Caller,
        user_id: &UserId,
    ) -> Result<OpenIdToken, Error> {
        if caller.user_id != user_id {
            return Err(Error::forbidden("You can only say who you are yourself."));
        }
        self.limits.message(caller.user)?;
        let access_token = format!("wso_{}", self.house.dice.letters(TOKEN_LENGTH));
        let expires_ms = self.house.clock.now_ms().saturating_add(LIVES_MS);
        let row = OpenIdRow { user: caller.user.0, expires_ms };
        let permit = Permit::own("openid.issued", &caller.user_id, &caller.device_id);
        let mut commit = self.house.ledger.begin(permit);
        commit.put(&OPENID_TOKENS, &self.token_digest(&access_token), &row);
        self.house.ledger.commit(commit).await?;
        Ok(OpenIdToken { access_token, expires_in_secs: LIVES_MS / 1_000 })
    }

    /// Whose token this is: what `GET /_matrix/federation/v1/openid/userinfo` answers.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::UnknownToken`] if nobody's (any more).
    pub async fn openid_user(&self, token: &str) -> Result<OwnedUserId, Error> {
        let unknown = super::authenticate::unknown_token;
        let row = self.house.ledger.get(&OPENID_TOKENS, &self.token_digest(token)).await?;
        let row = row.filter(|row| row.expires_ms > self.house.clock.now_ms());
        self.house.ledger.user_id(UserNid(row.ok_or_else(unknown)?.user)).await
    }

    /// Forgets tokens that are over; a reconciler, to be called now and then. Returns how many.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn forget_openid_tokens(&self) -> Result<usize, Error> {
        let ledger = &self.house.ledger;
        let now_ms = self.house.clock.now_ms();
        let (rows, _) = ledger
            .newest()
            .scan(&OPENID_TOKENS, &(), Direction::Forward, 10 * FORGOTTEN_AT_ONCE_MAX)
            .await?;
        let over: Vec<_> = rows.into_iter().filter(|(_, row)| row.expires_ms <= now_ms).collect();
        for page in over.chunks(FORGOTTEN_AT_ONCE_MAX) {
            let mut commit = ledger.begin(Permit::housekeeping());
            for (key, _) in page {
                commit.delete(&OPENID_TOKENS, key);
            }
            ledger.commit(commit).await?;
        }
        Ok(over.len())
    }
}

#[cfg(test)]
mod tests {
    use appliance_model::Kind;

    use super::*;
    use crate::scenario::Ward;

    #[tokio::test]
    async fn it_says_who_one_is_for_an_hour_and_survives_a_restart() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let accounts = &ward.services.accounts;
        let refused = accounts.openid_token(&doctor, &nurse.user_id).await.err().unwrap();
        assert_eq!(refused.kind, Kind::Forbidden);
        let token = accounts.openid_token(&nurse, &nurse.user_id).await.unwrap();
        assert_eq!(token.expires_in_secs, 3_600);
        accounts.authenticate(&token.access_token).await.unwrap_err();

        let ward = ward.power_cut_and_restart().await;
        let accounts = &ward.services.accounts;
        assert_eq!(accounts.openid_user(&token.access_token).await.unwrap(), nurse.user_id);
        assert_eq!(accounts.forget_openid_tokens().await.unwrap(), 0);
        ward.clock.pass_ms(LIVES_MS);
        let over = accounts.openid_user(&token.access_token).await.unwrap_err();
        assert!(matches!(over.kind, Kind::UnknownToken { .. }));
        assert_eq!(accounts.forget_openid_tokens().await.unwrap(), 1);
    }
}
