//! Passwords: Argon2id, a few at a time.

use appliance_model::{Error, Kind};
use argon2::password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash};
use argon2::{Algorithm, Argon2, Params, Version};

use super::Accounts;

/// "Argon2id with m=19 MiB, t=2, p=1" (OWASP password storage, the lower bound).
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
/// Long enough for any passphrase, short enough that hashing it costs nothing extra.
pub const PASSWORD_BYTES_MAX: usize = 512;
/// What a client is told to wait that finds too many waiting.
const BUSY_MS: u64 = 2_000;

impl Accounts {
    /// The PHC string to keep for a password.
    ///
    /// # Errors
    ///
    /// [`Kind::WeakPassword`] if it is empty; [`Kind::TooLarge`] beyond [`PASSWORD_BYTES_MAX`];
    /// [`Kind::Limited`] if too many passwords wait to be hashed.
    pub async fn hash_password(&self, password: String) -> Result<String, Error> {
        if password.is_empty() {
            return Err(Error::new(Kind::WeakPassword, "The password must not be empty."));
        }
        if password.len() > PASSWORD_BYTES_MAX {
            return Err(Error::too_large("The password is longer than 512 bytes."));
        }
        let mut salt = [0; 16];
        self.house.dice.fill(&mut salt);
        let cheap = self.house.options.cheap_password_hash;
        self.in_pool(move || hash(cheap, &password, salt)).await
    }

    /// Whether `password` is the one that `known` was made from. Compares in constant time, and
    /// takes as long if there is none: the time does not tell who has an account.
    ///
    /// # Errors
    ///
    /// As [`Accounts::hash_password`].
    pub(super) async fn verify_password(
        &self,
        password: String,
        known: Option<String>,
    ) -> Result<bool, Error> {
        if password.len() > PASSWORD_BYTES_MAX {
            return Ok(false);
        }
        let cheap = self.house.options.cheap_password_hash;
        self.in_pool(move || {
            let Some(known) = known else {
                hash(cheap, &password, [0; 16])?;
                return Ok(false);
            };
            let Ok(known) = PasswordHash::new(&known) else { return Ok(false) };
            Ok(Argon2::default().verify_password(password.as_bytes(), &known).is_ok())
        })
        .await
    }

    #[expect(clippy::disallowed_methods, reason = "the bounded pool for hashing")]
    async fn in_pool<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let busy = Error::new(
            Kind::Limited { retry_after_ms: BUSY_MS },
            "Too many people are signing in at this moment. Wait a little.",
        );
        let in_queue = self.hash_queue.clone().try_acquire_owned().map_err(|_| busy)?;
        let stopping = || Error::new(Kind::Unavailable, "The server is shutting down.");
        let place = self.hashing.clone().acquire_owned().await.map_err(|_| stopping())?;
        tokio::task::spawn_blocking(move || {
            let _places = (in_queue, place);
            work()
        })
        .await
        .map_err(Error::internal)?
    }
}

fn hash(cheap: bool, password: &str, salt: [u8; 16]) -> Result<String, Error> {
    let hash = hasher(cheap).hash_password_with_salt(password.as_bytes(), &salt);
    hash.map(|hash| hash.to_string()).map_err(Error::internal)
}

fn hasher(cheap: bool) -> Argon2<'static> {
    let (memory_kib, passes) =
        if cheap { (Params::MIN_M_COST, Params::MIN_T_COST) } else { (MEMORY_KIB, PASSES) };
    let params = Params::new(memory_kib, passes, 1, None).expect("the parameters are in range");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}
