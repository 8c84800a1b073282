//! Two hospitals begin to exchange rooms: `wardstone peers invite` and `wardstone peers accept`.
//!
//! Two letters, carried by people (e-mail, a QR code, a stick), so that neither server opens a door for
//! somebody who is not on its list yet, and no network has to work before it is tried:
//!
//! 1. A invites B: A's *offer*. Good for 48 hours, for B alone, once.
//! 2. B accepts the offer: A is on B's list, suspended, with A's key pinned. Out comes B's *answer*.
//! 3. A accepts the answer: B is on A's list, suspended, with B's key pinned.
//! 4. Both see the same six words. They read them to each other on the phone, and each lets the other
//!    in: `wardstone peers resume`.
//!
//! A letter is signed with the key that it names, so that a letter that was altered or cut off is noticed
//! at once. That it is *theirs* no signature can say: somebody in the middle could write both letters anew.
//! That is what the words are for. They are 48 bits of a hash over both letters: names, keys, terms and
//! what both sides drew by lot. Who writes the second letter could try letters until the words fit, which
//! is why the hash is one that costs time and memory (Argon2id): 2^48 of them in 48 hours is out of reach.

mod letter;
mod words;

use appliance_ledger::keyspaces::{Digest, OFFERS};
use appliance_ledger::rows::peers::{OfferRow, PeerRow};
use appliance_ledger::{Commit, Direction};
use appliance_model::ruma::{OwnedServerName, ServerName};
use appliance_model::{Error, Kind};
use appliance_rules::Permit;
use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::digest::{SHA256, digest};

use super::{PeerChange, Peers, base64};
use letter::Letter;
pub use letter::Terms;
use words::WORDS;

/// Long enough to reach somebody on a Monday who was written to on a Saturday.
const OFFER_MS: u64 = 48 * 60 * 60 * 1_000;

/// Offers that are open or were used in the last 48 hours. A hospital begins with a few peers a year.
const OFFERS_MAX: usize = 1_000;

/// What hashing the words costs, beside some 50 ms: an administrator does not notice, and others wait no
/// longer than for a log-in.
const WORDS_MEMORY_KIB: u32 = 32 * 1024;
const WORDS_PASSES: u32 = 2;

/// An offer.
#[derive(Clone, Debug)]
pub struct Offer {
    /// For the other side's administrator.
    pub text: String,
    /// Until when it is good, in milliseconds since the Unix epoch.
    pub until_ms: u64,
}

/// What came of accepting a letter.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// Whose it was.
    pub server_name: OwnedServerName,
    /// What is on the list now: suspended, with its check phrase.
    pub peer: PeerRow,
    /// For the other side's administrator, if the letter was an offer.
    pub answer: Option<String>,
}

impl Peers {
    /// Writes an offer to another server's administrator.
    ///
    /// # Errors
    ///
    /// * [`Kind::InvalidParam`]: it is for this server itself, or the terms make no sense.
    /// * [`Kind::TooLarge`]: too many offers are open.
    pub async fn invite(
        &self,
        server: &ServerName,
        terms: Terms,
        by: &str,
    ) -> Result<Offer, Error> {
        if *server == *self.house.server_name {
            return Err(Error::invalid_param("This server is no peer of its own."));
        }
        terms.clone().apply(PeerRow::default())?;
        let until_ms = self.house.clock.now_ms() + OFFER_MS;
        let letter = self.letter(server, terms, until_ms, None);
        let (text, letter) = letter::write(&letter, &self.house.signing_key)?;
        let _turn = self.doors.enter(0).await;
        let permit = Permit::administration("peer.invited", by, server);
        let mut commit = self.house.ledger.begin(permit);
        self.tidy_offers(&mut commit).await?;
        let key = self.offer_key(&letter);
        let letter = Some(letter.into());
        commit.put(&OFFERS, &key, &OfferRow { server_name: server.to_string(), until_ms, letter });
        self.house.ledger.commit(commit).await?;
        Ok(Offer { text, until_ms })
    }

    /// Accepts an offer of another server, or its answer to one of this server's. What is on the list then
    /// is suspended until the administrator has compared the words and says so. `terms` is what an answer
    /// says of this organisation.
    ///
    /// # Errors
    ///
    /// [`Kind::InvalidParam`], with a sentence: the letter is not whole, was altered, is this server's own,
    /// is for another server, is over its time, or was used.
    pub async fn accept(&self, text: &str, terms: Terms, by: &str) -> Result<Accepted, Error> {
        let (letter, bytes) = letter::read(text)?;
        let from = ServerName::parse(&*letter.from).map_err(|_| letter::broken())?;
        let own = &self.house.server_name;
        if from == *own {
            return Err(Error::invalid_param(format!(
                "This was written by this server: it is for the administrator of {}.",
                letter.to
            )));
        }
        if letter.to != own.as_str() {
            return Err(Error::invalid_param(format!(
                "This is for {}, and this server is {own}.",
                letter.to
            )));
        }
        match letter.answers.clone() {
            None => self.accept_offer((from, letter, bytes), terms, by).await,
            Some(answers) => self.accept_answer((from, letter, bytes), &answers, by).await,
        }
    }

    async fn accept_offer(
        &self,
        (from, letter, bytes): (OwnedServerName, Letter, Vec<u8>),
        mut terms: Terms,
        by: &str,
    ) -> Result<Accepted, Error> {
        if self.house.clock.now_ms() >= letter.until_ms {
            return Err(Error::invalid_param(format!(
                "This offer is over: an offer is good for 48 hours. Ask {from} for another."
            )));
        }
        // One contract, in the words of the side that offered it.
        terms.take_contract(Terms::default());
        terms.clone().apply(PeerRow::default())?;
        let answers = Some(sha256(&bytes));
        let answer = self.letter(&from, terms, letter.until_ms, answers);
        let (text, answer) = letter::write(&answer, &self.house.signing_key)?;
        let phrase = phrase(&bytes, &answer)?;
        let key = self.offer_key(&bytes);
        let until_ms = letter.until_ms.min(self.house.clock.now_ms() + OFFER_MS);
        let used = OfferRow { server_name: from.to_string(), until_ms, letter: None };
        let change = |row| letter.pinned(row, phrase);
        let peer = self.put_on_list(&from, (key, Some(used)), change, by).await?;
        Ok(Accepted { server_name: from, peer, answer: Some(text) })
    }

    async fn accept_answer(
        &self,
        (from, mut letter, bytes): (OwnedServerName, Letter, Vec<u8>),
        answers: &[u8],
        by: &str,
    ) -> Result<Accepted, Error> {
        let key = self.house.ledger.digest(&[b"offer", answers]);
        let row = self.house.ledger.get(&OFFERS, &key).await?;
        let now_ms = self.house.clock.now_ms();
        let row = row.filter(|row| row.server_name == from.as_str() && now_ms < row.until_ms);
        let offer = row.and_then(|row| row.letter).ok_or_else(|| no_offer(&from))?;
        let phrase = phrase(&offer, &bytes)?;
        let offer: Letter = minicbor::decode(&offer).map_err(Error::internal)?;
        letter.terms.take_contract(offer.terms);
        let change = |row| letter.pinned(row, phrase);
        let peer = self.put_on_list(&from, (key, None), change, by).await?;
        Ok(Accepted { server_name: from, peer, answer: None })
    }

    /// One commit for the record and for the end of the offer.
    async fn put_on_list(
        &self,
        from: &ServerName,
        (key, used): (Digest, Option<OfferRow>),
        change: impl FnOnce(PeerRow) -> Result<PeerRow, Error>,
        by: &str,
    ) -> Result<PeerRow, Error> {
        let _turn = self.doors.enter(0).await;
        let known_offer = self.house.ledger.get(&OFFERS, &key).await?;
        match (&known_offer, &used) {
            (Some(_), Some(_)) => {
                return Err(Error::invalid_param(format!(
                    "This offer was accepted here already. Ask {from} for another if the answer is \
                     lost."
                )));
            }
            // Somebody was quicker with the same answer.
            (None, None) => return Err(no_offer(from)),
            _ => {}
        }
        let (known, peer) = self.changed(from, change).await?;
        let permit = Permit::administration("peer.accepted", by, from);
        let mut commit = self.house.ledger.begin(permit);
        match &used {
            Some(row) => {
                self.tidy_offers(&mut commit).await?;
                commit.put(&OFFERS, &key, row);
            }
            None => commit.delete(&OFFERS, &key),
        }
        self.put_down(commit, from, (known, peer)).await
    }

    fn letter(
        &self,
        to: &ServerName,
        terms: Terms,
        until_ms: u64,
        answers: Option<Vec<u8>>,
    ) -> Letter {
        let mut lot = vec![0; 16];
        self.house.dice.fill(&mut lot);
        Letter {
            from: self.house.server_name.to_string(),
            to: to.to_string(),
            key_id: format!("ed25519:{}", self.house.signing_key.version()),
            public: self.house.signing_key.public_key().to_vec(),
            terms,
            lot,
            until_ms,
            answers,
        }
    }

    fn offer_key(&self, offer: &[u8]) -> Digest {
        self.house.ledger.digest(&[b"offer", &sha256(offer)])
    }

    /// Forgets what is over; there is room for one more then.
    async fn tidy_offers(&self, commit: &mut Commit) -> Result<(), Error> {
        let view = self.house.ledger.newest();
        let (rows, _) = view.scan(&OFFERS, &(), Direction::Forward, OFFERS_MAX).await?;
        let now_ms = self.house.clock.now_ms();
        let over: Vec<_> = rows.iter().filter(|(_, row)| row.until_ms <= now_ms).collect();
        if rows.len() - over.len() >= OFFERS_MAX {
            let message = "A thousand offers are open. Wait until some of them are over.";
            return Err(Error::new(Kind::TooLarge, message));
        }
        over.into_iter().for_each(|(key, _)| commit.delete(&OFFERS, key));
        Ok(())
    }
}

impl Letter {
    /// The record of whoever wrote this: suspended until the words were compared.
    fn pinned(self, row: PeerRow, phrase: String) -> Result<PeerRow, Error> {
        let mut row = self.terms.apply(row)?;
        row.pinned_keys = vec![(self.key_id, base64(&self.public))];
        row.suspended = true;
        row.check_phrase = Some(phrase);
        PeerChange::default().apply(row)
    }
}

fn no_offer(from: &ServerName) -> Error {
    Error::invalid_param(format!(
        "This answers no offer that is open here: it was used, or is older than 48 hours. `wardstone \
         peers invite {from}` makes another."
    ))
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    digest(&SHA256, bytes).as_ref().to_vec()
}

/// Six words for two letters: the same on both sides, because both have both.
fn phrase(offer: &[u8], answer: &[u8]) -> Result<String, Error> {
    let both = [sha256(offer), sha256(answer)].concat();
    let params =
        Params::new(WORDS_MEMORY_KIB, WORDS_PASSES, 1, Some(6)).map_err(Error::internal)?;
    let mut bytes = [0; 6];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(&both, b"wardstone check phrase 1", &mut bytes)
        .map_err(Error::internal)?;
    Ok(bytes.map(|byte| WORDS[usize::from(byte)]).join(" "))
}

#[cfg(test)]
mod tests;
