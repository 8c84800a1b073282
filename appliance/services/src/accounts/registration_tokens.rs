//! Registration tokens that administrators give out ([spec], and Synapse's shapes): each good for so
//! many accounts and so long. A use is counted in the commit that makes the account, behind the door
//! that all registrations share: neither two at once nor a power cut use one twice, or for nothing.
//!
//! The tokens of the settings are good for ever, and not on this list.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#token-authenticated-registration

use appliance_ledger::keyspaces::REGISTRATION_TOKENS;
use appliance_ledger::rows::RegistrationTokenRow;
use appliance_ledger::{Commit, Digest, Direction};
use appliance_model::Error;
use appliance_rules::Permit;

use super::Accounts;
use crate::house::Registration;

/// Tokens that are kept, used up or not: a list that a person still looks through.
const TOKENS_MAX: usize = 10_000;
/// "The token … must not be longer than 64 characters."
const LENGTH_MAX: usize = 64;
/// As long as Synapse's.
const LENGTH_DEFAULT: usize = 16;
/// Six letters are what nobody guesses within the limit of guesses; the list is no place for less.
const LENGTH_MIN: usize = 1;

/// A token to be made.
#[derive(Clone, Debug, Default)]
pub struct NewRegistrationToken {
    /// The token; a random one if none is given.
    pub token: Option<String>,
    /// How long a random one is.
    pub length: Option<usize>,
    /// What it is good for.
    pub terms: TokenTerms,
}

/// How often and how long a token is good. What is none has no end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenTerms {
    /// For so many accounts.
    pub uses_allowed: Option<u64>,
    /// Until then: milliseconds since the Unix epoch.
    pub expires_ms: Option<u64>,
}

/// A change of a token's terms: none leaves what is, `Some(None)` takes the end away.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenChange {
    /// For so many accounts.
    pub uses_allowed: Option<Option<u64>>,
    /// Until then: milliseconds since the Unix epoch.
    pub expires_ms: Option<Option<u64>>,
}

/// A token on the list.
#[derive(Clone, PartialEq, Eq)]
pub struct RegistrationToken {
    /// The token.
    pub token: String,
    /// What it is good for.
    pub terms: TokenTerms,
    /// Accounts made with it.
    pub completed: u64,
    /// Whether it opens registration now.
    pub valid: bool,
}

impl Accounts {
    /// Makes a token.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::InvalidParam`] for a token of other letters or another length than
    /// the spec allows, one that exists, or a time that is over.
    pub async fn make_registration_token(
        &self,
        new: NewRegistrationToken,
        by: &str,
    ) -> Result<RegistrationToken, Error> {
        let length = new.length.unwrap_or(LENGTH_DEFAULT);
        if !(LENGTH_MIN..=LENGTH_MAX).contains(&length) {
            return Err(Error::invalid_param("`length` is a number from 1 to 64."));
        }
        let token = new.token.unwrap_or_else(|| self.house.dice.letters(length));
        check_form(&token)?;
        self.check_expiry(new.terms.expires_ms)?;
        let inside = self.doors.enter(0).await;
        let ledger = &self.house.ledger;
        let digest = self.registration_token_digest(&token);
        let is_full = self.token_rows().await?.len() >= TOKENS_MAX;
        if is_full || ledger.get(&REGISTRATION_TOKENS, &digest).await?.is_some() {
            let why = if is_full { "There are too many tokens." } else { "This token exists." };
            return Err(Error::invalid_param(why));
        }
        let TokenTerms { uses_allowed, expires_ms } = new.terms;
        let row = RegistrationTokenRow { token, uses_allowed, completed: 0, expires_ms };
        let permit = Permit::administration("registration_token.made", by, public_name(&digest));
        let mut commit = ledger.begin(permit);
        commit.put(&REGISTRATION_TOKENS, &digest, &row);
        commit.hold(inside);
        ledger.commit(commit).await?;
        Ok(self.token_view(row))
    }

    /// All tokens, or only those that are good or not good now, by their letters.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn registration_tokens(
        &self,
        valid: Option<bool>,
    ) -> Result<Vec<RegistrationToken>, Error> {
        let rows = self.token_rows().await?;
        let mut tokens: Vec<_> = rows.into_iter().map(|row| self.token_view(row)).collect();
        tokens.retain(|token| valid.is_none_or(|wanted| token.valid == wanted));
        tokens.sort_by(|a, b| a.token.cmp(&b.token));
        Ok(tokens)
    }

    /// One token.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`] if it is not on the list.
    pub async fn registration_token(&self, token: &str) -> Result<RegistrationToken, Error> {
        let digest = self.registration_token_digest(token);
        let row = self.house.ledger.get(&REGISTRATION_TOKENS, &digest).await?;
        row.map(|row| self.token_view(row)).ok_or_else(no_token)
    }

    /// Changes how often and how long a token is good.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`], and [`appliance_model::Kind::InvalidParam`] for a time
    /// that is over.
    pub async fn change_registration_token(
        &self,
        token: &str,
        change: TokenChange,
        by: &str,
    ) -> Result<RegistrationToken, Error> {
        self.check_expiry(change.expires_ms.flatten())?;
        let inside = self.doors.enter(0).await;
        let ledger = &self.house.ledger;
        let digest = self.registration_token_digest(token);
        let mut row = ledger.get(&REGISTRATION_TOKENS, &digest).await?.ok_or_else(no_token)?;
        row.uses_allowed = change.uses_allowed.unwrap_or(row.uses_allowed);
        row.expires_ms = change.expires_ms.unwrap_or(row.expires_ms);
        let permit = Permit::administration("registration_token.changed", by, public_name(&digest));
        let mut commit = ledger.begin(permit);
        commit.put(&REGISTRATION_TOKENS, &digest, &row);
        commit.hold(inside);
        ledger.commit(commit).await?;
        Ok(self.token_view(row))
    }

    /// Takes a token off the list: from now on it opens nothing.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`] if it is not there.
    pub async fn delete_registration_token(&self, token: &str, by: &str) -> Result<(), Error> {
        let inside = self.doors.enter(0).await;
        let ledger = &self.house.ledger;
        let digest = self.registration_token_digest(token);
        ledger.get(&REGISTRATION_TOKENS, &digest).await?.ok_or_else(no_token)?;
        let permit = Permit::administration("registration_token.deleted", by, public_name(&digest));
        let mut commit = ledger.begin(permit);
        commit.delete(&REGISTRATION_TOKENS, &digest);
        commit.hold(inside);
        ledger.commit(commit).await.map(drop)
    }

    /// Whether a text is a token that opens registration now.
    pub(super) async fn opens_registration(&self, guess: &str) -> Result<bool, Error> {
        Ok(self.is_token_of_settings(guess) || self.is_token_on_list(guess).await?)
    }

    /// Counts a use of the token into the commit that makes the account. To be called behind the
    /// door of those who are not in yet.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::Forbidden`] if others have used it up meanwhile.
    pub(super) async fn use_registration_token(
        &self,
        token: &str,
        commit: &mut Commit,
    ) -> Result<(), Error> {
        if self.is_token_of_settings(token) {
            return Ok(());
        }
        let digest = self.registration_token_digest(token);
        let row = self.house.ledger.get(&REGISTRATION_TOKENS, &digest).await?;
        let mut row = row
            .filter(|row| self.is_good(row))
            .ok_or_else(|| Error::forbidden("This registration token is not valid."))?;
        row.completed += 1;
        commit.put(&REGISTRATION_TOKENS, &digest, &row);
        Ok(())
    }

    fn is_token_of_settings(&self, guess: &str) -> bool {
        let Registration::Token(tokens) = &self.house.options.registration else { return false };
        tokens.iter().any(|token| token.matches(guess))
    }

    async fn is_token_on_list(&self, guess: &str) -> Result<bool, Error> {
        let digest = self.registration_token_digest(guess);
        let row = self.house.ledger.get(&REGISTRATION_TOKENS, &digest).await?;
        Ok(row.is_some_and(|row| self.is_good(&row)))
    }

    fn is_good(&self, row: &RegistrationTokenRow) -> bool {
        row.uses_allowed.is_none_or(|allowed| row.completed < allowed)
            && row.expires_ms.is_none_or(|expires_ms| self.house.clock.now_ms() < expires_ms)
    }

    fn token_view(&self, row: RegistrationTokenRow) -> RegistrationToken {
        RegistrationToken {
            valid: self.is_good(&row),
            terms: TokenTerms { uses_allowed: row.uses_allowed, expires_ms: row.expires_ms },
            token: row.token,
            completed: row.completed,
        }
    }

    async fn token_rows(&self) -> Result<Vec<RegistrationTokenRow>, Error> {
        let ledger = self.house.ledger.newest();
        let (rows, _) =
            ledger.scan(&REGISTRATION_TOKENS, &(), Direction::Forward, TOKENS_MAX).await?;
        Ok(rows.into_iter().map(|(_, row)| row).collect())
    }

    fn registration_token_digest(&self, token: &str) -> Digest {
        self.house.ledger.digest(&[b"registration token", token.as_bytes()])
    }

    fn check_expiry(&self, expires_ms: Option<u64>) -> Result<(), Error> {
        if expires_ms.is_some_and(|expires_ms| expires_ms < self.house.clock.now_ms()) {
            return Err(Error::invalid_param("`expiry_time` must not be in the past."));
        }
        Ok(())
    }
}

/// "The token … opaque string … consist of `[0-9A-Za-z._~-]` … not longer than 64 … not empty."
fn check_form(token: &str) -> Result<(), Error> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._~-".contains(&byte);
    if token.is_empty() || token.len() > LENGTH_MAX || !token.bytes().all(allowed) {
        let why = "`token` is 1 to 64 characters of A-Z a-z 0-9 . _ ~ -";
        return Err(Error::invalid_param(why));
    }
    Ok(())
}

/// How the audit trail calls a token: whoever reads the trail cannot use it.
fn public_name(digest: &Digest) -> String {
    digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

fn no_token() -> Error {
    Error::not_found("There is no such registration token.")
}

#[cfg(test)]
mod tests {
    use appliance_model::Kind;

    use super::*;
    use crate::Options;
    use crate::accounts::{Attempt, NewAccount, Proof};
    use crate::scenario::{Ward, options};

    async fn ward() -> Ward {
        let registration = Registration::Token(Vec::new());
        Ward::with_options(Options { registration, ..options() }).await
    }

    async fn sign_up(ward: &Ward, name: &str, token: &str) -> Result<(), Kind> {
        let auth = serde_json::json!({ "type": "m.login.registration_token", "token": token });
        let proof = Proof {
            attempt: Some(Attempt::from_json(auth).unwrap()),
            operation: [0; 16],
            address: None,
        };
        let (localpart, password) = (Some(name.to_owned()), Some(name.to_owned()));
        let new = NewAccount { localpart, password, ..NewAccount::default() };
        let made = ward.services.accounts.register(new, None, proof).await;
        made.map(drop).map_err(|error| error.kind)
    }

    /// Twenty people with one paper for three: three get in, also when the power fails between.
    #[tokio::test]
    async fn one_paper_is_good_for_as_many_as_it_says() {
        let ward = ward().await;
        let terms = TokenTerms { uses_allowed: Some(3), expires_ms: None };
        let token = Some("ward-4".to_owned());
        let new = NewRegistrationToken { token, terms, ..NewRegistrationToken::default() };
        ward.services.accounts.make_registration_token(new.clone(), "chief").await.unwrap();
        let twice = ward.services.accounts.make_registration_token(new, "chief").await;
        assert_eq!(twice.err().unwrap().kind, Kind::InvalidParam);
        assert!(sign_up(&ward, "guesser", "ward-5").await.is_err());
        sign_up(&ward, "first", "ward-4").await.unwrap();

        let ward = ward.power_cut_and_restart().await;
        let known = ward.services.accounts.registration_token("ward-4").await.unwrap();
        assert_eq!((known.completed, known.valid), (1, true));
        let all = (0..19).map(|number| {
            let ward = &ward;
            async move { sign_up(ward, &format!("nurse{number}"), "ward-4").await }
        });
        let made = futures_util::future::join_all(all).await;
        assert_eq!(made.iter().filter(|made| made.is_ok()).count(), 2);
        let known = ward.services.accounts.registration_token("ward-4").await.unwrap();
        assert_eq!((known.completed, known.valid), (3, false));
        // An account that cannot be made uses nothing up.
        let change = TokenChange { uses_allowed: Some(Some(4)), ..TokenChange::default() };
        let accounts = &ward.services.accounts;
        accounts.change_registration_token("ward-4", change, "chief").await.unwrap();
        assert_eq!(sign_up(&ward, "first", "ward-4").await, Err(Kind::UserInUse));
        assert_eq!(accounts.registration_token("ward-4").await.unwrap().completed, 3);
        assert!(!ward.audit().await.join(" ").contains("ward-4"), "the trail tells no token");
    }

    #[tokio::test]
    async fn tokens_end_and_are_taken_back() {
        let ward = ward().await;
        let accounts = &ward.services.accounts;
        let now_ms = ward.services.house.clock.now_ms();
        let terms = |expires_ms| TokenTerms { uses_allowed: None, expires_ms: Some(expires_ms) };
        let make = async |terms, length| {
            let new = NewRegistrationToken { terms, length, ..NewRegistrationToken::default() };
            accounts.make_registration_token(new, "chief").await
        };
        for length in [0, 65] {
            assert!(make(TokenTerms::default(), Some(length)).await.is_err());
        }
        assert!(make(terms(now_ms - 1), None).await.is_err());
        let soon = make(terms(now_ms + 1_000), Some(30)).await.ok().unwrap().token;
        assert_eq!(soon.len(), 30);
        sign_up(&ward, "nurse", &soon).await.unwrap();
        ward.clock.pass_ms(1_000);
        assert!(sign_up(&ward, "doctor", &soon).await.is_err());
        assert_eq!(accounts.registration_tokens(Some(true)).await.unwrap().len(), 0);
        assert_eq!(accounts.registration_tokens(Some(false)).await.unwrap().len(), 1);
        let change = TokenChange { expires_ms: Some(None), ..TokenChange::default() };
        accounts.change_registration_token(&soon, change, "chief").await.unwrap();
        sign_up(&ward, "doctor", &soon).await.unwrap();
        accounts.delete_registration_token(&soon, "chief").await.unwrap();
        assert!(sign_up(&ward, "visitor", &soon).await.is_err());
        let gone = accounts.delete_registration_token(&soon, "chief").await.unwrap_err();
        assert_eq!(gone.kind, Kind::NotFound);
    }
}
