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

impl Accounts {
    /// The PHC string to keep for a password.
    ///
    /// # Errors
    ///
    /// [`Kind::WeakPassword`] if it is empty; [`Kind::TooLarge`] beyond [`PASSWORD_BYTES_MAX`].
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
        self.in_pool(move || {
            let hash = hasher(cheap).hash_password_with_salt(password.as_bytes(), &salt);
            hash.map(|hash| hash.to_string()).map_err(Error::internal)
        })
        .await
    }

    /// Whether `password` is the one `hash` was made from. Compares in constant time.
    ///
    /// # Errors
    ///
    /// If the server is stopping.
    pub async fn verify_password(&self, password: String, hash: String) -> Result<bool, Error> {
        if password.len() > PASSWORD_BYTES_MAX {
            return Ok(false);
        }
        self.in_pool(move || {
            let Ok(hash) = PasswordHash::new(&hash) else { return Ok(false) };
            Ok(Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
        })
        .await
    }

    #[expect(clippy::disallowed_methods, reason = "the bounded pool for hashing")]
    async fn in_pool<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let stopping = || Error::new(Kind::Unavailable, "The server is shutting down.");
        let place = self.hashing.clone().acquire_owned().await.map_err(|_| stopping())?;
        tokio::task::spawn_blocking(move || {
            let _place = place;
            work()
        })
        .await
        .map_err(Error::internal)?
    }
}

fn hasher(cheap: bool) -> Argon2<'static> {
    let (memory_kib, passes) =
        if cheap { (Params::MIN_M_COST, Params::MIN_T_COST) } else { (MEMORY_KIB, PASSES) };
    let params = Params::new(memory_kib, passes, 1, None).expect("the parameters are in range");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}
